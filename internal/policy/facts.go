package policy

import (
	"encoding/json"
	"net/netip"
	"strings"
	"time"

	"github.com/kith-id/kith/spiffe"
)

const (
	maxQuery   = 8 << 10 // bytes of a query that conditions look into
	maxField   = 8 << 10 // bytes of a header field, a query parameter or a claim
	maxClaims  = 256     // entries of a list
	maxForward = 64      // addresses in X-Forwarded-For
)

// subject is what a fact is.
type subject uint8

const (
	onMethod subject = iota + 1
	onPath
	onHost
	onPort
	onSNI
	onSource
	onTime
	onHeader
	onQuery
	onPeerID
	onTrustDomain
	onPeerPath
	onClaim
)

// reads is the facts a subject is read from; of what every request has, none.
func (s subject) reads() Reads {
	switch s {
	case onSNI:
		return ReadsSNI
	case onSource:
		return ReadsSource | ReadsHeaders
	case onTime:
		return ReadsTime
	case onHeader:
		return ReadsHeaders
	case onQuery:
		return ReadsQuery
	case onClaim:
		return ReadsToken
	default:
		return 0
	}
}

// valueKind is the type of what a fact is.
type valueKind uint8

const (
	kindText valueKind = iota + 1
	kindNumber
	kindFlag
	kindList // of texts
	kindMoment
	kindAddress
)

// fact is one thing that a condition reads. What it reads is there once and
// well formed, or it is unknown: a header that comes twice has no value.
type fact struct {
	on    subject
	kind  valueKind
	name  string   // of a header, in canonical form, or of a query parameter
	claim []string // path to a claim
	spelt string   // as a condition spells it
}

// input is what conditions are asked about.
type input struct {
	r         *Request
	peer      *Peer  // not its r: escape analysis would take the request for leaked with it
	forwarder uint32 // the except list of those whose X-Forwarded-For counts; 0: nobody
	hops      int
}

// text is what ref reads; false if it is unknown.
func (in *input) text(ref *fact) (string, bool) {
	switch ref.on {
	case onMethod:
		return in.r.Method, in.r.Method != ""
	case onPath:
		return in.r.Path, in.r.Path != ""
	case onHost:
		return hostOf(in.r.Host)
	case onSNI:
		if f := in.r.Facts; f != nil && f.SNI != "" {
			return strings.ToLower(f.SNI), len(f.SNI) <= maxField
		}
	case onHeader:
		text, n := in.header(ref.name)
		return text, n == 1
	case onQuery:
		text, n := in.query(ref.name)
		return text, n == 1
	case onPeerID:
		return in.peer.r.id.String(), !in.peer.r.anonymous
	case onTrustDomain:
		return in.peer.r.id.TrustDomain().String(), !in.peer.r.anonymous
	case onClaim:
		text, ok := in.claim(ref.claim).(string)
		return text, ok && len(text) <= maxField
	}
	return "", false
}

// header is the value of a field and how often it comes; more than once counts
// as unknown, like one that is too long, or that comes under another spelling.
func (in *input) header(name string) (value string, n int) {
	if in.r.Facts == nil {
		return "", 0
	}
	var values []string
	switch h := in.r.Facts.Headers.(type) {
	case Fields: // as almost all are
		values = h[name]
	case nil:
	case Respelling:
		if values = h.Values(name); h.Respelt(name) {
			return "", 2
		}
	default:
		values = h.Values(name)
	}
	if len(values) != 1 {
		return "", len(values)
	}
	if len(values[0]) > maxField {
		return "", 2
	}
	return values[0], 1
}

// hostOf is a host as names are compared: lower case, without port and final dot.
func hostOf(host string) (string, bool) {
	if host == "" || len(host) > maxField {
		return "", false
	}
	if host[0] == '[' {
		end := strings.IndexByte(host, ']')
		if end < 0 || end+1 < len(host) && host[end+1] != ':' {
			return "", false
		}
		host = host[1:end]
	} else if name, port, cut := strings.Cut(host, ":"); cut {
		if strings.IndexByte(port, ':') >= 0 {
			return "", false
		}
		host = name
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" || strings.ContainsAny(host, "@/\\?# \t") {
		return "", false
	}
	return strings.ToLower(host), true
}

// number is what ref reads; false if it is unknown.
func (in *input) number(ref *fact) (int64, bool) {
	if ref.on == onPort {
		return int64(in.r.Port), in.r.Port != 0
	}
	switch n := in.claim(ref.claim).(type) {
	case float64:
		whole := int64(n)
		const exact = 1 << 53
		return whole, float64(whole) == n && -exact <= n && n <= exact
	case json.Number:
		whole, err := n.Int64()
		return whole, err == nil
	default:
		return 0, false
	}
}

// flag is what ref reads; false if it is unknown.
func (in *input) flag(ref *fact) (value, ok bool) {
	value, ok = in.claim(ref.claim).(bool)
	return value, ok
}

// moment is what ref reads; false if it is unknown.
func (in *input) moment() (time.Time, bool) {
	f := in.r.Facts
	if f == nil || f.Time.IsZero() {
		return time.Time{}, false
	}
	return f.Time.UTC(), true
}

// address is the caller's: at the other end of the connection, or, where a
// gateway is trusted to say for whom it forwards, what that says. A gateway that
// does not say leaves it unknown.
func (in *input) address() (netip.Addr, bool) {
	f := in.r.Facts
	if f == nil {
		return netip.Addr{}, false
	}
	if in.forwarder == 0 || !in.peer.r.excused(in.forwarder) {
		if f.Source.Is4() { // as it is already
			return f.Source, true
		}
		return f.Source.Unmap().WithZone(""), f.Source.IsValid()
	}
	if f.Headers == nil {
		return netip.Addr{}, false
	}
	return forwardedFor(f.Headers.Values("X-Forwarded-For"), in.hops)
}

// forwardedFor is the hop-th address from the right, of all lines together.
func forwardedFor(lines []string, hop int) (netip.Addr, bool) {
	left := maxForward
	for i := len(lines) - 1; i >= 0; i-- {
		for line := lines[i]; ; {
			comma := strings.LastIndexByte(line, ',')
			if hop--; hop == 0 {
				return parseForwarded(strings.Trim(line[comma+1:], " \t"))
			}
			if left--; left == 0 || comma < 0 {
				break
			}
			line = line[:comma]
		}
	}
	return netip.Addr{}, false
}

// parseForwarded reads an address, with or without a port.
func parseForwarded(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return a.Unmap().WithZone(""), true
	}
	a, err := netip.ParseAddrPort(s)
	return a.Addr().Unmap().WithZone(""), err == nil
}

// segments is the path of the caller's ID, without its first slash; false where
// there is no caller.
func (in *input) segments() (string, bool) {
	return strings.TrimPrefix(in.peer.r.id.Path(), "/"), !in.peer.r.anonymous && in.peer.r.id != (spiffe.ID{})
}

// claim is what a valid token says at path, nil if nothing.
func (in *input) claim(path []string) any {
	claims := in.claims()
	for _, name := range path[:len(path)-1] {
		claims, _ = claims[name].(map[string]any)
	}
	return claims[path[len(path)-1]]
}

// claims is all that a valid token says.
func (in *input) claims() map[string]any {
	if in.r.Facts == nil || in.r.Facts.Token == nil {
		return nil
	}
	claims, state := in.r.Facts.Token.Claims()
	if state != TokenValid {
		return nil
	}
	return claims
}

// token is what there is of a user's token.
func (in *input) token() TokenState {
	if in.r.Facts == nil || in.r.Facts.Token == nil {
		return TokenNone
	}
	_, state := in.r.Facts.Token.Claims()
	return state
}

// list calls each for the entries of what ref reads, until it says stop; false if
// it is unknown, as one with more entries than anybody looks through is: of a part
// all() could be true that is not of the whole. A claim of one text is a list of
// one; scope is split at spaces.
func (in *input) list(ref *fact, each func(string) (stop bool)) bool {
	if ref.on == onPeerPath {
		path, ok := in.segments()
		ok = ok && strings.Count(path, "/") < maxClaims
		if ok && path != "" {
			for s := range strings.SplitSeq(path, "/") {
				if each(s) {
					break
				}
			}
		}
		return ok
	}
	switch v := in.claim(ref.claim).(type) {
	case string:
		if ref.name != spaced {
			each(v)
			return len(v) <= maxField
		}
		if len(v) > maxField || tooManyWords(v) {
			return false
		}
		for s := range strings.FieldsSeq(v) {
			if each(s) {
				break
			}
		}
		return true
	case []any:
		if len(v) > maxClaims {
			return false
		}
		for _, entry := range v {
			if text, ok := entry.(string); !ok || len(text) > maxField {
				return false
			}
		}
		for _, entry := range v {
			if each(entry.(string)) {
				break
			}
		}
		return true
	default:
		return false
	}
}

// tooManyWords says whether a text has more words than a list may have entries.
func tooManyWords(text string) bool {
	if len(text) < 2*maxClaims {
		return false
	}
	n := 0
	for range strings.FieldsSeq(text) {
		n++
	}
	return n > maxClaims
}

// spaced is the name of facts that are lists that a token may also give as one
// text with spaces between (RFC 8693 4.2).
const spaced = " "

// present says whether ref can be read; known is false where something is there
// that cannot.
func (in *input) present(ref *fact) (there, known bool) {
	switch ref.on {
	case onHeader:
		_, n := in.header(ref.name)
		return n == 1, n <= 1
	case onQuery:
		_, n := in.query(ref.name)
		return n == 1, n <= 1
	case onClaim:
		if in.token() == TokenRefused {
			return false, false
		}
		if in.claim(ref.claim) == nil {
			return false, true
		}
		ok := in.readable(ref)
		return ok, ok
	default:
		return in.readable(ref), true
	}
}

func (in *input) readable(ref *fact) (ok bool) {
	switch ref.kind {
	case kindNumber:
		_, ok = in.number(ref)
	case kindFlag:
		_, ok = in.flag(ref)
	case kindList:
		ok = in.list(ref, func(string) bool { return true })
	case kindMoment:
		_, ok = in.moment()
	case kindAddress:
		_, ok = in.address()
	default:
		_, ok = in.text(ref)
	}
	return ok
}
