package policy

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A network has the addresses that netip says it has, of either family.
func TestNetworkHasWhatItsPrefixHas(t *testing.T) {
	checks(t)
	address := rapid.Custom(func(t *rapid.T) netip.Addr {
		b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 10, 127, 128, 255}), 16, 16).Draw(t, "bytes")
		if rapid.Bool().Draw(t, "four") {
			return netip.AddrFrom4([4]byte(b[:4]))
		}
		if rapid.Bool().Draw(t, "near zero") { // as addresses of IPv4 are, once they are numbers
			copy(b, make([]byte, 10))
		}
		return netip.AddrFrom16([16]byte(b)).Unmap()
	})
	rapid.Check(t, func(rt *rapid.T) {
		a, b := address.Draw(rt, "network"), address.Draw(rt, "address")
		if rapid.Bool().Draw(rt, "within") {
			b = a.Next()
		}
		prefix, err := a.Prefix(rapid.IntRange(0, a.BitLen()).Draw(rt, "bits"))
		if err != nil {
			rt.Fatal(err)
		}
		n := networkOf(prefix)
		if got, want := n.contains(b), prefix.Contains(b); got != want {
			rt.Fatalf("%s has %s: %t, want %t", prefix, b, got, want)
		}
	})
}

// What is remembered of where a caller's segments end is where they end, and of a
// path of too many segments none is known.
func TestSegmentsOfACaller(t *testing.T) {
	checks(t)
	rapid.Check(t, func(rt *rapid.T) {
		segments := rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,9}`), 0, 7).Draw(rt, "segments")
		path := ""
		if len(segments) > 0 {
			path = "/" + strings.Join(segments, "/")
		}
		in := inputOf(&Request{}, "spiffe://acme.example"+path)
		for i := range 9 {
			got, there := in.segment(int64(i))
			if want := i < len(segments); there != want || there && got != segments[i] {
				rt.Fatalf("segment %d of %q is %q, %t", i, path, got, there)
			}
		}
	})
	many := inputOf(&Request{}, "/"+strings.Repeat("a/", maxClaims)+"a")
	if got, there := many.segment(1); there {
		t.Errorf("segment of a path of more than %d is %q, want none", maxClaims, got)
	}
	most := inputOf(&Request{}, "/"+strings.Repeat("a/", maxClaims-1)+"b")
	if got, there := most.segment(maxClaims - 1); got != "b" || !there {
		t.Errorf("last segment of a path of %d is %q, %t", maxClaims, got, there)
	}
}

// The end of a segment is the first slash, or the end of the path, wherever either is.
func TestSegmentsAreCut(t *testing.T) {
	checks(t)
	text := rapid.StringOfN(rapid.RuneFrom([]rune{'/', 'a', '.', 0, 0x7f, '0', 'ä'}), 0, 30, -1)
	rapid.Check(t, func(rt *rapid.T) {
		path := text.Draw(rt, "path")
		start := rapid.IntRange(0, len(path)).Draw(rt, "start")
		want := strings.IndexByte(path[start:], '/')
		if want < 0 {
			want = len(path) - start
		}
		if got := upTo(path, start, slashes) - start; got != want {
			rt.Fatalf("segment of %q at %d has %d bytes, want %d", path, start, got, want)
		}
		key, length := keyAt(path, start)
		if length > word && want >= word { // eight bytes do not say whether they are all
			return
		}
		if length != want || key != load(path[start:start+want]) {
			rt.Fatalf("segment of %q at %d has %d bytes and key %x, want %d and %x", path, start, length, key, want, load(path[start:start+want]))
		}
	})
}
