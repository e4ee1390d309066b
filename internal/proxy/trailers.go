package proxy

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
)

// mayTrail says whether a field may pass as a trailer of a request. RFC 9110
// 6.5.1: one that frames, routes, authenticates, modifies the request or says
// what the content is comes too late, and a recipient might merge it with what
// was decided.
func mayTrail(name string) bool {
	low := strings.ToLower(name)
	if kindOf([]byte(name)) != ordinary || strings.HasPrefix(low, "content-") || strings.HasPrefix(low, "if-") {
		return false
	}
	switch low {
	case "authorization", "cookie", "set-cookie", "www-authenticate", "origin", "range", "cache-control", "pragma",
		"max-forwards", "age", "expires", "location", "retry-after", "vary", "warning":
		return false
	}
	return true
}

// trailing is the value of a Trailer field with the names that may pass.
func trailing(value []byte) string {
	var names []string
	for name := range bytes.SplitSeq(value, []byte(",")) {
		if name = bytes.Trim(name, " \t"); isToken(name) && mayTrail(string(name)) {
			names = append(names, string(name))
		}
	}
	return strings.Join(names, ", ")
}

// trail lets a request that goes through net/http take the trailers along that
// it announced and that may pass.
func trail(pr *httputil.ProxyRequest) {
	pr.Out.Trailer = nil
	for name := range pr.In.Trailer {
		if mayTrail(name) {
			if pr.Out.Trailer == nil {
				pr.Out.Trailer = make(http.Header)
			}
			pr.Out.Trailer[name] = nil
		}
	}
	if pr.Out.Trailer != nil && pr.Out.Body != nil {
		pr.Out.Body = &trailedBody{ReadCloser: pr.Out.Body, from: pr.In.Trailer, to: pr.Out.Trailer}
	}
}

// trailedBody copies trailers at the end of a body, when they are known.
type trailedBody struct {
	io.ReadCloser

	from, to http.Header
}

// Read reads the body.
func (b *trailedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		for name := range b.to {
			b.to[name] = b.from[name]
		}
	}
	return n, err
}
