package obs

import (
	"time"

	"golang.org/x/sys/unix"
)

// Uptime gives the time that has passed since the host was started, the time it
// slept included. Nobody can set it.
func Uptime() func() time.Duration {
	start := time.Now()
	return func() time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil { // never: Linux has it since 2.6.39
			return time.Since(start)
		}
		return time.Duration(ts.Nano())
	}
}
