package policy

import (
	"net/netip"
	"strings"
	"time"
)

// Request is what is decided. Path must come out of NormalizePath.
type Request struct {
	Protocol Protocol
	Method   string
	Path     string
	Host     string // reported, never matched
	// Port is the application's own port, the one behind `--expose outer=inner`;
	// 0 where it is not known (a unix socket). An unknown port satisfies no
	// allow that names one, and every deny that names one.
	Port uint16
	GRPC bool // reported; a gRPC call is decided as the POST it is
	// Facts is what conditions read besides. Table.Reads says which of them are
	// worth gathering; one that is absent makes a condition on it fail to evaluate.
	Facts *Facts
}

// Facts is what is known of a request beyond what every rule looks at.
type Facts struct {
	Time    time.Time  // now
	Source  netip.Addr // at the other end of the connection
	SNI     string     // the name the TLS client asked for
	Query   string     // as sent, without the question mark
	Headers Headers
	Token   Token
}

// Headers gives the values of a header field, by its name in canonical form, in
// the order they came. An http.Header does.
type Headers interface {
	Values(name string) []string
}

// Fields are Headers whose names are all canonical, as those of an http.Header that
// came off the wire are: none is brought into that form again for each look-up.
type Fields map[string][]string

// Values implements Headers.
func (f Fields) Values(name string) []string { return f[name] }

// Respelling are Headers that know of other spellings. Back ends that are told of
// fields as CGI does (RFC 3875 4.1.18; WSGI, PHP) know no underscore from a hyphen:
// what a field says that comes under another spelling of its name too is unknown.
type Respelling interface {
	Headers
	Respelt(name string) bool // whether a field is there under another spelling of the name
}

// HeadersOf are the fields of a request of HTTP, by canonical names, for conditions.
func HeadersOf(fields map[string][]string) Headers {
	for name := range fields {
		if strings.IndexByte(name, '_') >= 0 {
			return respelling{fields}
		}
	}
	return Fields(fields)
}

// respelling are fields of which some have an underscore in their names.
type respelling struct{ Fields }

// Respelt implements Respelling.
func (r respelling) Respelt(name string) bool {
	for other := range r.Fields {
		if other != name && Respelt(other, name) {
			return true
		}
	}
	return false
}

// Respelt says whether two names of header fields are one but for case, and for
// underscores that are hyphens in the other.
func Respelt[Name string | []byte](a Name, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(b) {
		if spelt(a[i]) != spelt(b[i]) {
			return false
		}
	}
	return true
}

func spelt(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c | 0x20
	case c == '_':
		return '-'
	}
	return c
}

// Token is the end user's token of a request, verified elsewhere. It is asked
// only where a condition that reads jwt.* decides, so verifying may wait until
// then. Claims are as encoding/json decodes them, numbers as json.Number or
// float64, and count only in the state TokenValid.
type Token interface {
	Claims() (claims map[string]any, state TokenState)
}

// TokenState says what there is of a user's token. The zero state is none.
type TokenState uint8

// The states of a user's token.
const (
	TokenNone TokenState = iota
	TokenRefused
	TokenValid
)

// Reads is a set of facts.
type Reads uint8

// The facts that conditions read.
const (
	ReadsTime Reads = 1 << iota
	ReadsSource
	ReadsSNI
	ReadsQuery
	ReadsHeaders
	ReadsToken
)
