//go:build chaos

package chaos

import "os"

// measure is the first value, which ten minutes on two busy cores bear, or with
// CHAOS_FULL the second, which a bar names: more often, longer, under more load.
func measure[T any](scaled, full T) T {
	if os.Getenv("CHAOS_FULL") != "" {
		return full
	}
	return scaled
}
