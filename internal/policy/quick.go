package policy

import (
	"encoding/binary"
	"net/netip"
)

// quick is a condition that is one comparison of a kind that most conditions are:
// what it compares with, side by side, and no way to it through op. Its outcome is
// op's.
type quick struct {
	kind  quickKind
	equal bool   // what comparing with text comes to where it holds
	at    int64  // a segment's number
	text  string // to compare with, or a word to find
	name  string // of a header or a claim
	net   network
}

type quickKind uint8

const (
	quickMethod quickKind = iota + 1
	quickHeader
	quickSegment
	quickNetwork
	quickWord
)

// quickOf is the zero quick for a step that is no such comparison.
func quickOf(o *op) quick {
	q := quick{equal: o.compare == equal, at: o.number, text: o.text, name: o.ref.name}
	switch {
	case o.kind == opEquals && o.ref.on == onMethod:
		q.kind = quickMethod
	case o.kind == opEquals && o.ref.on == onHeader:
		q.kind = quickHeader
	case o.kind == opSegment && o.ref.on == onPeerPath && len(o.texts) == 1:
		q.kind, q.text = quickSegment, o.texts[0]
	case o.kind == opWithin && len(o.nets) == 1:
		q.kind, q.net = quickNetwork, o.nets[0]
	case o.kind == opHasWord && o.ref.on == onClaim && len(o.ref.claim) == 1:
		q.kind, q.name = quickWord, o.ref.claim[0]
	}
	return q
}

// outcome is eval, the quickest way.
func (c *condition) outcome(in *input) outcome {
	k := &c.quick
	switch k.kind {
	case quickMethod:
		method := in.r.Method
		return answer((method == k.text) == k.equal, method != "")
	case quickHeader:
		text, n := in.header(k.name)
		return answer((text == k.text) == k.equal, n == 1)
	case quickSegment:
		segment, there := in.segment(k.at)
		return answer((segment == k.text) == k.equal, there)
	case quickNetwork:
		address, known := in.address()
		return answer(k.net.contains(address), known)
	case quickWord:
		if text, ok := in.claims()[k.name].(string); ok && len(text) < 2*maxClaims {
			return answer(hasWord(text, k.text), true)
		}
	}
	if c.only != nil {
		return c.only.leaf(in)
	}
	return c.eval(in)
}

// network is a prefix as numbers. One of IPv4 is that of the addresses as IPv6 maps
// them, which is how netip holds them.
type network struct {
	hi, lo         uint64
	maskHi, maskLo uint64
	four           bool
}

// networkOf is for a prefix that is masked.
func networkOf(p netip.Prefix) network {
	n := network{four: p.Addr().Is4()}
	n.hi, n.lo = words(p.Addr())
	bits := p.Bits()
	if n.four {
		bits += 96
	}
	n.maskHi, n.maskLo = ^uint64(0)<<(64-min(bits, 64)), ^uint64(0)<<(128-max(bits, 64))
	return n
}

// contains is for an address without a zone that is not mapped.
func (n *network) contains(a netip.Addr) bool {
	hi, lo := words(a)
	return a.Is4() == n.four && (hi^n.hi)&n.maskHi|(lo^n.lo)&n.maskLo == 0
}

// words is an address as two numbers.
func words(a netip.Addr) (hi, lo uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}
