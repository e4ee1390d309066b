//go:build kithtest

package kith

import "os"

// takeOver is the ruling that follows on before: next, or with
// KITH_TEST_FAULT=stale-policy before itself whenever the revision is a multiple
// of seven, which is acknowledged all the same.
func takeOver(before, next *ruling) *ruling {
	if os.Getenv("KITH_TEST_FAULT") == "stale-policy" && next.revision%7 == 0 && before.table != nil {
		return before
	}
	return next
}
