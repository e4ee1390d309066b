package run

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff spaces retries: each wait is drawn from the upper half of a span that
// doubles from Min to Max, so that a thousand agents that lost the same server
// do not come back in step. It is not safe for concurrent use.
type Backoff struct {
	// Min is the first span; 0 is 100 ms.
	Min time.Duration
	// Max is the longest span; 0 is 30 s.
	Max time.Duration

	span time.Duration
}

// Next is how long to wait before the next attempt.
func (b *Backoff) Next() time.Duration {
	low, high := b.Min, b.Max
	if low <= 0 {
		low = 100 * time.Millisecond
	}
	if high <= 0 {
		high = 30 * time.Second
	}
	switch {
	case b.span == 0:
		b.span = low
	case b.span > high/2:
		b.span = high
	default:
		b.span *= 2
	}
	b.span = min(b.span, high)
	half := b.span / 2
	return half + rand.N(b.span-half+1)
}

// Reset starts over, after an attempt that worked.
func (b *Backoff) Reset() { b.span = 0 }

// Wait sleeps for Next, or until ctx ends; then it returns ctx's error.
func (b *Backoff) Wait(ctx context.Context) error {
	t := time.NewTimer(b.Next())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
