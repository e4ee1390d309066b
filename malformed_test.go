package kith

import (
	"net/http"
	"testing"
)

// Attack 54: HTTP/2 can say what HTTP/1 cannot be told.
func TestMalformedHTTP2Requests(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		r    http.Request
		want bool
	}{
		"lawful":             {http.Request{ProtoMajor: 2, Host: "orders:8443", ContentLength: 5, Header: http.Header{"Content-Length": {"5"}}}, false},
		"no length":          {http.Request{ProtoMajor: 2, Host: "orders", ContentLength: -1}, false},
		"no host":            {http.Request{ProtoMajor: 2}, false},
		"second host":        {http.Request{ProtoMajor: 2, Host: "orders", Header: http.Header{"Host": {"orders"}}}, true},
		"space in the host":  {http.Request{ProtoMajor: 2, Host: "a b"}, true},
		"line in the host":   {http.Request{ProtoMajor: 2, Host: "a\r\nb"}, true},
		"length without":     {http.Request{ProtoMajor: 2, Host: "a", Header: http.Header{"Content-Length": {"5"}}}, true},
		"two lengths":        {http.Request{ProtoMajor: 2, Host: "a", Header: http.Header{"Content-Length": {"0", "0"}}}, true},
		"negative length":    {http.Request{ProtoMajor: 2, Host: "a", Header: http.Header{"Content-Length": {"-1"}}}, true},
		"HTTP/1 looks after": {http.Request{ProtoMajor: 1, Host: "a", Header: http.Header{"Content-Length": {"5"}}}, false},
	} {
		if got := malformed(&tc.r); (got != "") != tc.want {
			t.Errorf("%s: got %q", name, got)
		}
	}
}
