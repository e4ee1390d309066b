package server

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
)

const (
	maxSupposed     = 64      // headers of a call that has not happened
	maxSupposedText = 8 << 10 // bytes of one of them, or of the query
)

// suppose adds to a request what conditions read besides.
func (s *Server) suppose(to *policy.Request, req *pb.TestRequest) error {
	facts := &policy.Facts{Time: s.cfg.Now(), SNI: req.GetSni(), Query: req.GetQuery()}
	to.Host, to.Facts = req.GetHost(), facts
	if at := req.GetAtUnixNano(); at != 0 {
		facts.Time = time.Unix(0, at)
	}
	if len(req.GetQuery()) > maxSupposedText || len(req.GetHost()) > maxSupposedText || len(req.GetSni()) > maxSupposedText {
		return fault.Invalidf("query, host or server name is longer than %d bytes", maxSupposedText)
	}
	var err error
	if facts.Headers, err = supposedHeaders(req.GetHeaders()); err != nil {
		return err
	}
	if req.GetSource() != "" {
		if facts.Source, err = netip.ParseAddr(req.GetSource()); err != nil {
			return fault.Hint(fault.Invalidf("source: %q is no address", req.GetSource()), "as in 10.1.2.3, without a port")
		}
	}
	if req.GetClaims() != "" {
		facts.Token, err = supposedClaims(req.GetClaims())
	}
	return err
}

func supposedHeaders(lines []string) (http.Header, error) {
	if len(lines) > maxSupposed {
		return nil, fault.Invalidf("more than %d headers", maxSupposed)
	}
	headers := make(http.Header)
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

// claims are those of a user token that is good.
type claims map[string]any

// Claims implements policy.Token.
func (c claims) Claims() (map[string]any, policy.TokenState) { return c, policy.TokenValid }

func supposedClaims(text string) (policy.Token, error) {
	wrong := fault.Hint(fault.Invalidf("claims: not one JSON object"), `as in {"sub": "ann", "scope": "orders:read"}`)
	if len(text) > maxSupposed*maxSupposedText {
		return nil, wrong
	}
	var c claims
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&c); err != nil || c == nil || d.More() {
		return nil, wrong
	}
	return c, nil
}
