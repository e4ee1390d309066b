//go:build kithtest

package obs

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// setting is what KITH_TEST_CLOCK_OFFSET says, read once: a duration, or @ and
// the name of a file that holds one and can change while the program runs.
var setting = sync.OnceValue(func() string { return os.Getenv("KITH_TEST_CLOCK_OFFSET") })

// offset is how far the clock is to be off. A value that is no duration ends the
// test process, as a skew that silently does not happen would make the test pass
// for nothing.
func offset() time.Duration {
	text := setting()
	if name, ok := strings.CutPrefix(text, "@"); ok {
		raw, err := os.ReadFile(name)
		if err != nil {
			panic(fmt.Sprintf("KITH_TEST_CLOCK_OFFSET: %v", err))
		}
		text = strings.TrimSpace(string(raw))
	}
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(fmt.Sprintf("KITH_TEST_CLOCK_OFFSET: %v", err))
	}
	return d
}

// Now is the program's clock, skewed by KITH_TEST_CLOCK_OFFSET ("-10m").
func Now() time.Time { return time.Now().Add(offset()) }
