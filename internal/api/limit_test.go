package api

import (
	"net/netip"
	"testing"
	"time"
)

func TestLimiterIsPerAddressAndForAll(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := newLimiter(func() time.Time { return now }, 30, 2, 20)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	count := func(addr netip.Addr) int {
		n := 0
		for range 100 {
			if l.allow(addr) {
				n++
			}
		}
		return n
	}
	if got := count(a); got != 20 {
		t.Errorf("first address: %d let through, want its burst of 20", got)
	}
	if got := count(b); got != 10 {
		t.Errorf("second address: %d let through, want the 10 left for all", got)
	}
	now = now.Add(time.Second)
	if got := count(a); got != 2 {
		t.Errorf("a second later: %d let through, want 2", got)
	}
}

func TestLimiterCountsAV6NetworkAsOne(t *testing.T) {
	l := newLimiter(time.Now, 1000, 1, 3)
	n := 0
	for i := range 20 {
		if l.allow(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)})) {
			n++
		}
	}
	if n > 4 {
		t.Errorf("one /64 got %d through, want its burst of 3", n)
	}
}

func TestLimiterTableIsBounded(t *testing.T) {
	l := newLimiter(time.Now, 1e9, 1, 2)
	for i := range 3 * maxAddresses {
		l.allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if got := len(l.per); got > maxAddresses {
		t.Errorf("%d buckets, want at most %d", got, maxAddresses)
	}
}
