package policy

import (
	"fmt"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/kith-id/kith/internal/pb"
)

// Masked is what stands in the decision log for a value that is not shown.
const Masked = "***"

// Bounds of what the decision log keeps of one request.
const (
	maxKept      = 64  // values of each kind
	maxKeptName  = 128 // bytes
	maxKeptValue = 256
)

// Recording is what the decision log wants to know of requests besides decisions.
// Nil is no decision log. It is immutable.
type Recording struct {
	allows                 uint64 // of 2^32
	headers, query, claims kept
}

// kept are the names of one kind whose values are recorded.
type kept struct {
	all    bool
	names  []string
	masked []string
}

// RecordingFromPB reads what an agent wants recorded; nil where it has no log.
func RecordingFromPB(m *pb.DecisionLog) *Recording {
	if m == nil {
		return nil
	}
	share := min(max(m.GetAllows(), 0), 1)
	return &Recording{
		allows:  uint64(share * (1 << 32)),
		headers: keptOf(m.GetHeaders(), m.GetMaskHeaders()),
		query:   keptOf(m.GetQuery(), m.GetMaskQuery()),
		claims:  keptOf(m.GetClaims(), m.GetMaskClaims()),
	}
}

func keptOf(names, masked []string) kept {
	k := kept{all: slices.Contains(names, "*")}
	for _, name := range names {
		k.names = append(k.names, strings.ToLower(name))
	}
	for _, name := range masked {
		k.masked = append(k.masked, strings.ToLower(name))
	}
	return k
}

// Picks says whether an allow is one of those to record, by 32 random bits.
func (r *Recording) Picks(random uint32) bool { return r != nil && uint64(random) < r.allows }

// Samples says whether any allow is recorded at all.
func (r *Recording) Samples() bool { return r != nil && r.allows > 0 }

// ReadsAllHeaders says whether headers are recorded whatever their name.
func (r *Recording) ReadsAllHeaders() bool { return r != nil && r.headers.all }

// ReadsClaims says whether claims of the user token are recorded.
func (r *Recording) ReadsClaims() bool { return r != nil && len(r.claims.names) > 0 }

// Note puts what is recorded of a request into the message of its decision: named
// values only, and none that is masked by name or looks like a credential. The
// headers are an http.Header or nil; all is the whole of them, where it is known.
func (r *Recording) Note(m *pb.Decision, headers interface{ Values(name string) []string }, all map[string][]string, query string, claims map[string]any) {
	if r == nil {
		return
	}
	if headers != nil {
		m.Headers = r.headers.ofHeaders(headers, all)
	}
	if len(r.query.names) > 0 && query != "" {
		m.Query = r.query.ofQuery(query)
	}
	if len(r.claims.names) > 0 && len(claims) > 0 {
		m.Claims = r.claims.ofClaims(claims)
	}
}

func (k kept) ofHeaders(headers interface{ Values(name string) []string }, all map[string][]string) map[string]string {
	if len(k.names) == 0 {
		return nil
	}
	out := map[string]string{}
	if k.all {
		for name, values := range all {
			k.put(out, strings.ToLower(name), strings.Join(values, ", "))
		}
		return out
	}
	for _, name := range k.names {
		if values := headers.Values(textproto.CanonicalMIMEHeaderKey(name)); len(values) > 0 {
			k.put(out, name, strings.Join(values, ", "))
		}
	}
	return out
}

func (k kept) ofQuery(query string) map[string]string {
	out := map[string]string{}
	if len(query) > maxQuery {
		query = query[:maxQuery]
	}
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		plain, err := url.QueryUnescape(name)
		if err != nil {
			continue
		}
		if !k.all && !slices.Contains(k.names, strings.ToLower(plain)) {
			continue
		}
		if value, err = url.QueryUnescape(value); err != nil {
			value = Masked // it could be anything
		}
		k.put(out, strings.ToLower(plain), value)
	}
	return out
}

func (k kept) ofClaims(claims map[string]any) map[string]string {
	out := map[string]string{}
	for name, value := range claims {
		if k.all || slices.Contains(k.names, strings.ToLower(name)) {
			k.put(out, strings.ToLower(name), fmt.Sprint(value))
		}
	}
	return out
}

// put records one value, masked if its name or its form says so.
func (k kept) put(out map[string]string, name, value string) {
	if len(out) >= maxKept || len(name) > maxKeptName {
		return
	}
	switch {
	case slices.Contains(k.masked, name), secret(name), credential(value), out[name] == Masked:
		value = Masked
	default:
		value = clipText(value, maxKeptValue)
	}
	out[clipText(name, maxKeptName)] = value
}

// secret says whether what has this name most likely is one.
func secret(name string) bool {
	plain := strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r == '.' {
			return -1
		}
		return r
	}, name)
	for _, word := range []string{
		"token", "secret", "passw", "authorization", "cookie", "apikey", "session", "credential", "signature", "jwt",
		"assertion", "csrf", "xsrf", "clientcert", "privatekey", "accesskey", "authkey", "otp",
	} {
		if strings.Contains(plain, word) {
			return true
		}
	}
	return slices.Contains([]string{"code", "sig", "pwd", "pin", "key", "auth"}, plain)
}

// credential says whether a value has the form of one: a JWT anywhere in it, or
// the words that come before a credential in a header.
func credential(value string) bool {
	lower := strings.ToLower(value)
	return strings.Contains(value, "eyJ") || strings.HasPrefix(lower, "bearer ") || strings.HasPrefix(lower, "basic ") ||
		strings.HasPrefix(lower, "digest ") || strings.HasPrefix(lower, "negotiate ") || strings.Contains(value, "-----BEGIN")
}

func clipText(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit]
	}
	if utf8.ValidString(text) {
		return text
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
