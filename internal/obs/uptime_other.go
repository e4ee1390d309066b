//go:build !linux

package obs

import "time"

// Uptime gives the time that has passed since it was called. Nobody can set it.
func Uptime() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
