package proxy

import (
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/spiffe"
)

const xfcc = "X-Forwarded-Client-Cert"

// longestIdentityName bounds the names that are compared; a longer one is only
// looked at by its prefix.
const longestIdentityName = 48

// reservedInitials begin every reserved name; most headers are told by them.
const reservedInitials = "cfhklprsx"

// strip removes the headers by which a caller could say who it is, or make the
// application see another request than the one that was decided.
func strip(head http.Header) {
	for name := range head {
		if reserved(name) {
			delete(head, name)
		}
	}
}

// reserved says whether a header is ours to set, or nobody's. Case and the
// difference between a hyphen and any other mark do not matter: CGI and WSGI
// show an application X_Forwarded_For as X-Forwarded-For.
func reserved[T string | []byte](name T) bool {
	var folded [longestIdentityName]byte
	n := min(len(name), len(folded))
	for i := range n {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		default:
			c = '-'
		}
		folded[i] = c
	}
	word := folded[:n]
	if n == 0 || strings.IndexByte(reservedInitials, word[0]) < 0 {
		return false
	}
	switch string(word) {
	case "forwarded", "proxy", "http2-settings",
		"x-spiffe-id", "client-cert", "client-cert-chain", "x-client-cert", "x-real-ip",
		"x-original-url", "x-original-uri", "x-original-path", "x-original-host", "x-original-method",
		"x-rewrite-url", "x-rewrite-uri", "x-override-url",
		"x-http-method-override", "x-http-method", "x-method-override",
		"remote-user", "x-remote-user", "x-authenticated-user":
		return true
	}
	for _, prefix := range [...]string{
		"x-forwarded-", "x-kith-", "kith-", "l5d-", "x-envoy-", "x-spiffe-", "x-ssl-", "ssl-client-", "x-client-cert-", "x-client-verify",
	} {
		if len(word) >= len(prefix) && string(word[:len(prefix)]) == prefix {
			return true
		}
	}
	return false
}

// vouch adds what is known of the caller.
func vouch(head http.Header, caller kith.Caller, own spiffe.ID, remote string) {
	head.Set(xfcc, vouchFor(caller.Peer, own))
	head.Set("X-Forwarded-Proto", "https")
	if remote != "" {
		head.Set("X-Forwarded-For", remote)
	}
}

// vouchFor is the value of X-Forwarded-Client-Cert. By is who we are, Hash the
// SHA-256 of the caller's leaf, left out for one that has shown none; IDs hold no
// character that this format would have to quote.
func vouchFor(peer *kith.Peer, own spiffe.ID) string {
	hash := peer.Hash()
	if hash == [len(hash)]byte{} {
		return "By=" + own.String() + ";URI=" + peer.ID().String()
	}
	return "By=" + own.String() + ";Hash=" + hex.EncodeToString(hash[:]) + ";URI=" + peer.ID().String()
}
