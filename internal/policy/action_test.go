package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kith-id/kith/internal/fault"
)

func TestActionsAreReadAndWrittenBack(t *testing.T) {
	for in, want := range map[string]string{
		"GET /":                         "GET /",
		"GET,POST /v1/orders":           "GET,POST /v1/orders",
		"* /v1/{**}":                    "* /v1/{**}",
		"GET /v1/{**}/edit/":            "GET /v1/{**}/edit/",
		"GET /v1/{id}/{line.no}":        "GET /v1/{id}/{line.no}",
		"GET /v1/*/{*}":                 "GET /v1/*/*",
		"  PURGE   /a  ":                "PURGE /a",
		"GET /a%2ab/%2A":                "GET /a%2Ab/%2A",
		"GET /%7bx%7D":                  "GET /%7Bx%7D",
		"GET /%61%21!":                  "GET /a!!",
		"GET /caf\u00e9":                "GET /caf%C3%A9",
		"GET /a%2fb":                    "GET /a%2Fb",
		"GET //a":                       "GET //a",
		"GET /.well-known/x":            "GET /.well-known/x",
		"grpc shop.v1.Orders/List":      "grpc shop.v1.Orders/List",
		"grpc shop.v1.Orders/*":         "grpc shop.v1.Orders/*",
		"grpc *":                        "grpc *",
		"tcp":                           "tcp",
		"tcp 5432":                      "tcp 5432",
		"M-SEARCH,VERSION-CONTROL /{a}": "M-SEARCH,VERSION-CONTROL /{a}",
	} {
		a, err := ParseAction(in)
		if err != nil || a.String() != want {
			t.Errorf("ParseAction(%q) = %q, %v; want %q", in, a, err, want)
			continue
		}
		again, err := ParseAction(a.String())
		if err != nil || !cmp.Equal(a, again, cmp.AllowUnexported(Action{}, part{})) {
			t.Errorf("ParseAction(%q) = %+v, %v; want %+v", a, again, err, a)
		}
	}
}

func TestActionsThatMeanNothingAreRefused(t *testing.T) {
	for in, says := range map[string]string{
		"":                                  "empty",
		"GET":                               "no path",
		"/v1/orders":                        "no path",
		"GET v1/orders":                     "does not begin with /",
		"GET /a b":                          "more than two words",
		"GET, /a":                           "empty",
		"GET,GET /a":                        "listed twice",
		"GET,* /a":                          "no HTTP method",
		"GET* /a":                           "no HTTP method",
		"G(T /a":                            "no HTTP method",
		"GET,tcp /a":                        "does not go with",
		"GET /a*":                           "mixes text",
		"GET /api*":                         "mixes text",
		"GET /{a":                           "mixes text",
		"GET /{}":                           "mixes text",
		"GET /{a b}":                        "more than two words",
		"GET /**":                           "no braces",
		"GET /{**}/{**}":                    "twice",
		"GET /a?b=c":                        "query",
		"GET /a#b":                          "query",
		"GET /a;b":                          "; parameter",
		"GET /a%3Bb":                        "; parameter",
		"GET /a\\b":                         "backslash",
		"GET /a/../b":                       "dot segment",
		"GET /a/%2e/b":                      "dot segment",
		"GET /%252e":                        "encoded twice",
		"GET /%zz":                          "no escape",
		"GET /%00":                          "control byte",
		"GET /%ff":                          "not UTF-8",
		"GET /" + strings.Repeat("a/", 40):  "more than 32 segments",
		"GET /" + strings.Repeat("a", 300):  "longer than",
		"GET /" + strings.Repeat("a", 3000): "longer than",
		strings.Repeat("A", 40) + " /":      "longer than",
		strings.Repeat("A,", 20) + "B /":    "more than 16 methods",
		"grpc":                              "no path",
		"grpc Orders":                       "no gRPC method",
		"grpc /shop.Orders/List":            "no gRPC method",
		"grpc shop.Orders/List/x":           "no gRPC method",
		"grpc shop.*/List":                  "no gRPC method",
		"grpc shop..Orders/List":            "no gRPC method",
		"grpc shop.Orders/a.b":              "no gRPC method",
		"tcp 0":                             "not a number",
		"tcp 65536":                         "not a number",
		"tcp 05432":                         "not a number",
		"tcp +1":                            "not a number",
		"tcp http":                          "not a number",
		"tcp 1 2":                           "more than two words",
	} {
		a, err := ParseAction(in)
		if err == nil || !strings.Contains(err.Error(), says) || !fault.Is(err, fault.Invalid) {
			t.Errorf("ParseAction(%.60q) = %q, %v; want an Invalid error with %q", in, a, err, says)
		}
	}
}

func TestTemplatesMatch(t *testing.T) {
	for _, tc := range []struct {
		template string
		yes, no  string // paths, separated by spaces
	}{
		{"/", "/", "/a //"},
		{"/v1/orders", "/v1/orders", "/v1/orders/ /v1/order /v1/orders/x /v1 /V1/orders"},
		{"/v1/orders/", "/v1/orders/", "/v1/orders"},
		{"/v1/{id}", "/v1/a /v1/{id} /v1/%20", "/v1/ /v1 /v1/a/b /v1/a/"},
		{"/v1/orders/{**}", "/v1/orders /v1/orders/ /v1/orders/a /v1/orders/a/b/c", "/v1/ordersx /v1 /v1/"},
		{"/{**}", "/ /a /a/b/", ""},
		{"/{**}/edit", "/edit /a/edit /a/b/edit /edit/edit", "/a/edit/ /a /edits"},
		{"/a/{**}/z/{id}", "/a/z/1 /a/b/c/z/1 /a/z/z/z", "/a/z /z/1 /a/b/z /a/z/1/"},
		{"/a/{**}/", "/a/ /a/b/", "/a /a/b"},
		{"/{x}/{**}/{x}", "/a/b /a/b/c", "/a /a/"},
		{"/a/%2A", "/a/* /a/%2A", "/a/b"},
		{"/a!b", "/a!b /a%21b", "/a%2521b"},
		{"/%C3%A9", "/%C3%A9", "/e"},
	} {
		set := newSet(t, []Service{
			{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP},
			{Name: "web", Identities: []string{"/n/web"}, Protocol: HTTP},
		}, Rule{Name: "r", From: []string{"web"}, To: "orders", Allow: []string{"GET " + tc.template}})
		table := mustCompile(t, set, "orders")
		peer := table.Peer(mustID(t, "/n/web"))
		check := func(paths string, want Effect) {
			for path := range strings.FieldsSeq(paths) {
				if d := table.Decide(peer, Request{Protocol: HTTP, Method: "GET", Path: path}); d.Effect != want {
					t.Errorf("%s on %s: got %s, want %s", tc.template, path, d.Effect, want)
				}
			}
		}
		check(tc.yes, Allow)
		check(tc.no, Deny)
	}
}

// A template that covers another matches all that the other matches.
func TestCoverMeansMatchingMore(t *testing.T) {
	templates := strings.Fields("/ /a /a/ /a/b /{x} /{x}/b /a/{x} /{**} /a/{**} /{**}/b /a/{**}/b /{x}/{**}/b /a/b/{**} /a/{x}/{**}")
	paths := strings.Fields("/ /a /b /a/ /a/b /a/c /b/b /a/b/ /a/c/b /a/b/c /b/c/b /a/x/y/b /a/b/b")
	covered := 0
	for _, outer := range templates {
		for _, inner := range templates {
			a, _ := parseTemplate(outer, nil)
			b, _ := parseTemplate(inner, nil)
			if !covers(a, b) {
				continue
			}
			covered++
			for _, path := range paths {
				segments := strings.Split(path, "/")[1:]
				if refTemplate(strings.Split(inner, "/")[1:], segments) && !refTemplate(strings.Split(outer, "/")[1:], segments) {
					t.Errorf("%s covers %s but not %s", outer, inner, path)
				}
			}
		}
	}
	if covered < len(templates)*2 {
		t.Errorf("only %d pairs cover each other", covered)
	}
}

func FuzzParseAction(f *testing.F) {
	for _, s := range []string{"GET /v1/{**}", "GET,POST /a/*/{x}/", "grpc a.b/C", "grpc *", "tcp 5432", "* /%2A%7b%21", "GET /é;", "GET //"} {
		f.Add(s)
	}
	f.Add("GET " + strings.Repeat("/"+strings.Repeat("é", 40), 20)) // twice too long once escaped
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAction(s)
		if err != nil {
			return
		}
		again, err := ParseAction(a.String())
		if err != nil || again.String() != a.String() || !cmp.Equal(a, again, cmp.AllowUnexported(Action{}, part{})) {
			t.Fatalf("%q -> %q -> %q, %v", s, a, again, err)
		}
		if !a.covers(a) {
			t.Fatalf("%q does not cover itself", a)
		}
	})
}
