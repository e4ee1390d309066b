package run

import "time"

// Beat is how long to wait for the next whole multiple of a period on the host's
// clock: parts that look after something each second, and wait so, wake the
// process once a second together. It is never less than half the period, so that
// nobody who comes early is woken twice, nor more than one and a half.
func Beat(period time.Duration) time.Duration { return beat(time.Now(), period) }

func beat(now time.Time, period time.Duration) time.Duration {
	left := now.Truncate(period).Add(period).Sub(now)
	if left < period/2 {
		left += period
	}
	return left
}
