//go:build kithtest

package obs

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// offset is read once; a value that is no duration ends the test process, as a
// skew that silently does not happen would make the test pass for nothing.
var offset = sync.OnceValue(func() time.Duration {
	text := os.Getenv("KITH_TEST_CLOCK_OFFSET")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(fmt.Sprintf("KITH_TEST_CLOCK_OFFSET: %v", err))
	}
	return d
})

// Now is the program's clock, skewed by KITH_TEST_CLOCK_OFFSET ("-10m").
func Now() time.Time { return time.Now().Add(offset()) }
