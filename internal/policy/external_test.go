package policy

import (
	"strings"
	"testing"
	"time"
)

func external(change func(*External)) Service {
	e := External{Name: "fraud", OPA: "http://127.0.0.1:8181/v1/data/orders/allow"}
	change(&e)
	return Service{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP, Externals: []External{e}}
}

func TestExternalFaults(t *testing.T) {
	for _, c := range []struct {
		why    string
		change func(*External)
	}{
		{"external[0].name: name is empty", func(e *External) { e.Name = "" }},
		{"nobody to ask", func(e *External) { e.OPA = "" }},
		{"two to ask", func(e *External) { e.ExtAuthz = "http://127.0.0.1:1" }},
		{"no document of OPA's", func(e *External) { e.OPA = "http://127.0.0.1:8181/v1/policies" }},
		{"no document of OPA's", func(e *External) { e.OPA += "?pretty" }},
		{"no URL of a host", func(e *External) { e.OPA = "http:///v1/data/x" }},
		{"no URL of a host", func(e *External) { e.OPA = "https://me@opa.example/v1/data/x" }},
		{"neither http nor https", func(e *External) { e.OPA = "ftp://opa.example/v1/data/x" }},
		{"plain HTTP to another host", func(e *External) { e.OPA = "http://10.0.0.7:8181/v1/data/x" }},
		{"plain HTTP to another host", func(e *External) { e.OPA = "http://opa/v1/data/x" }},
		{"more than scheme, host and port", func(e *External) { e.OPA, e.ExtAuthz = "", "https://gate.example/check" }},
		{"no absolute path", func(e *External) { e.Socket = "opa.sock" }},
		{"no certificate in PEM", func(e *External) { e.CA = "x" }},
		{"11s is not up to 10s", func(e *External) { e.Timeout = 11 * time.Second }},
		{"-1ns is not up to 10s", func(e *External) { e.Timeout = -1 }},
		{"is no header", func(e *External) { e.Headers = []string{"a b"} }},
		{"external[0].actions[0]", func(e *External) { e.Actions = []string{"GET"} }},
		{"cannot be enforced", func(e *External) { e.Actions = []string{"tcp"} }},
	} {
		s := external(c.change)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("got %v, want %q", err, c.why)
		}
		if _, err := Compile(newSet(t, []Service{s}), "orders"); err == nil {
			t.Errorf("%s: compiled", c.why)
		}
	}
	twice := external(func(*External) {})
	twice.Externals = append(twice.Externals, twice.Externals[0])
	if err := twice.Validate(); err == nil {
		t.Error("one name twice: accepted")
	}
	for name, s := range map[string]Service{
		"socket": external(func(e *External) { e.OPA, e.Socket = "http://opa/v1/data/x", "/run/opa.sock" }), "https": external(func(e *External) { e.OPA = "https://opa.example/v1/data/x" }),
		"localhost": external(func(e *External) { e.OPA = "http://localhost/v1/data/x" }), "IPv6": external(func(e *External) { e.OPA, e.ExtAuthz = "", "http://[::1]:9191/" }),
		"all headers": external(func(e *External) { e.Headers = []string{"*"} }),
	} {
		if err := s.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExternalIsAskedAboutItsActions(t *testing.T) {
	s := external(func(e *External) { e.Actions = []string{"POST,PUT /v1/orders/{**}", "* /v1/pay%2Dout/*"} })
	s.Externals = append(s.Externals, External{Name: "all", ExtAuthz: "http://127.0.0.1:9191"})
	table := mustCompile(t, newSet(t, []Service{s}), "orders")
	for request, want := range map[string]bool{
		"POST /v1/orders": true, "PUT /v1/orders/1/2": true, "GET /v1/orders": false, "POST /v1/order": false, "POST /v1/orders2": false,
		"GET /v1/pay-out/7": true, "GET /v1/pay%2Dout/7": true, "GET /v1/pay-out/": false, "GET /v1/pay-out": false,
	} {
		method, path, _ := strings.Cut(request, " ")
		r := Request{Protocol: HTTP, Method: method, Path: path}
		if got := table.Asks(0, r); got != want {
			t.Errorf("%s: asked %t, want %t", request, got, want)
		}
		if !table.Asks(1, r) {
			t.Errorf("%s: not asked by one that is about everything", request)
		}
	}
	tcp := Service{Name: "db", Identities: []string{"/n/db"}, Protocol: TCP, Externals: []External{{Name: "a", ExtAuthz: "http://127.0.0.1:1", Actions: []string{"tcp 5432"}}}}
	table = mustCompile(t, newSet(t, []Service{tcp}), "db")
	for port, want := range map[uint16]bool{5432: true, 5433: false, 0: true} {
		if got := table.Asks(0, Request{Protocol: TCP, Port: port}); got != want {
			t.Errorf("port %d: asked %t, want %t", port, got, want)
		}
	}
	var none *Table
	if len(none.Externals()) > 0 {
		t.Error("no table has externals")
	}
}
