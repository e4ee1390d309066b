package policy

import (
	"encoding/json"
	"net/netip"
	"net/textproto"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

const (
	maxSupposed     = 64      // headers of a call that has not happened
	maxSupposedText = 8 << 10 // bytes of one of them, or of the query
)

// Supposed is what conditions would read of a call that has not happened, in
// words. What is empty is not there; a zero At is a time nobody knows.
type Supposed struct {
	Headers []string // as "x-env: prod"
	Query   string   // without the question mark
	Host    string
	SNI     string
	Source  string // an address, without a port
	Claims  string // of a user's token that is good: a JSON object
	At      time.Time
}

// Fill puts into a request what was supposed of it.
func (s Supposed) Fill(to *Request) error {
	if len(s.Query) > maxSupposedText || len(s.Host) > maxSupposedText || len(s.SNI) > maxSupposedText {
		return fault.Invalidf("query, host or server name is longer than %d bytes", maxSupposedText)
	}
	headers, err := supposedHeaders(s.Headers)
	if err != nil {
		return err
	}
	facts := &Facts{Time: s.At, SNI: s.SNI, Query: s.Query, Headers: HeadersOf(headers)}
	if s.Source != "" {
		if facts.Source, err = netip.ParseAddr(s.Source); err != nil {
			return fault.Hint(fault.Invalidf("source: %q is no address", clip(s.Source)), "as in 10.1.2.3, without a port")
		}
	}
	if s.Claims != "" {
		if facts.Token, err = supposedClaims(s.Claims); err != nil {
			return err
		}
	}
	to.Host, to.Facts = s.Host, facts
	return nil
}

func supposedHeaders(lines []string) (Fields, error) {
	if len(lines) > maxSupposed {
		return nil, fault.Invalidf("more than %d headers", maxSupposed)
	}
	headers := make(Fields)
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !ok || name == "" || len(line) > maxSupposedText || strings.ContainsAny(line, "\r\n\x00") {
			return nil, fault.Hint(fault.Invalidf("%q is no header", line[:min(len(line), 96)]), `as in "x-env: prod"`)
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		headers[name] = append(headers[name], strings.TrimSpace(value))
	}
	return headers, nil
}

// goodClaims are those of a user token that is good.
type goodClaims map[string]any

// Claims implements Token.
func (c goodClaims) Claims() (map[string]any, TokenState) { return c, TokenValid }

func supposedClaims(text string) (Token, error) {
	wrong := fault.Hint(fault.Invalidf("claims: not one JSON object"), `as in {"sub": "ann", "scope": "orders:read"}`)
	if len(text) > maxSupposed*maxSupposedText {
		return nil, wrong
	}
	var c goodClaims
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&c); err != nil || c == nil || d.More() {
		return nil, wrong
	}
	return c, nil
}
