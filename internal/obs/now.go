//go:build !kithtest

package obs

import "time"

// Now is the program's clock, handed to every room as its Config.Now. In a
// build with the tag kithtest the whole process can be skewed by the variable
// KITH_TEST_CLOCK_OFFSET; this build has no such thing.
func Now() time.Time { return time.Now() }
