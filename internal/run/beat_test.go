package run

import (
	"testing"
	"time"
)

func TestBeatsFallTogether(t *testing.T) {
	t.Parallel()
	const period = time.Second
	whole := time.Date(2027, 1, 2, 3, 4, 6, 0, time.UTC)
	for _, test := range []struct{ into, want time.Duration }{
		{0, period},
		{time.Millisecond, 999 * time.Millisecond},
		{500 * time.Millisecond, 500 * time.Millisecond},
		{501 * time.Millisecond, 1499 * time.Millisecond},
		{999*time.Millisecond + 999*time.Microsecond, period + time.Microsecond},
	} {
		if got := beat(whole.Add(test.into), period); got != test.want {
			t.Errorf("%s after a whole second: wait %s, want %s", test.into, got, test.want)
		}
	}
	for into := range 2 * period / time.Millisecond {
		now := whole.Add(into * time.Millisecond)
		one, two := now.Add(beat(now, period)), now.Add(beat(now, 2*period))
		if one.Truncate(period) != one || two.Truncate(2*period) != two {
			t.Fatalf("waits of %s after a whole second end at %s and %s, not at whole ones", into*time.Millisecond, one, two)
		}
	}
}
