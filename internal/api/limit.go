package api

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxAddresses bounds the table of per-address buckets. When it is full, full
// buckets go first; if there are none, everybody shares the global bucket.
const maxAddresses = 8192

// limiter is a global token bucket in front of one bucket per address. It is
// for peers without an identity only: behind one NAT sit many good nodes, so
// the per-address bucket is wide.
type limiter struct {
	now       func() time.Time
	global    *rate.Limiter
	perSecond rate.Limit
	burst     int

	mu  sync.Mutex
	per map[netip.Addr]*rate.Limiter // guarded by mu
}

func newLimiter(now func() time.Time, global, per float64, burst int) *limiter {
	return &limiter{
		now:       now,
		global:    rate.NewLimiter(rate.Limit(global), max(burst, int(global))),
		perSecond: rate.Limit(per),
		burst:     burst,
		per:       make(map[netip.Addr]*rate.Limiter),
	}
}

// allow takes one token of the address and one of everybody.
func (l *limiter) allow(addr netip.Addr) bool {
	now := l.now()
	if own := l.bucket(addr.Unmap(), now); own != nil && !own.AllowN(now, 1) {
		return false
	}
	return l.global.AllowN(now, 1)
}

func (l *limiter) bucket(addr netip.Addr, now time.Time) *rate.Limiter {
	if addr.Is6() { // one host commands a whole /64
		if p, err := addr.Prefix(64); err == nil {
			addr = p.Addr()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if b, ok := l.per[addr]; ok {
		return b
	}
	if len(l.per) >= maxAddresses {
		for a, b := range l.per {
			if b.TokensAt(now) >= float64(l.burst) {
				delete(l.per, a)
			}
		}
		if len(l.per) >= maxAddresses {
			return nil
		}
	}
	b := rate.NewLimiter(l.perSecond, l.burst)
	l.per[addr] = b
	return b
}
