package kith

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// Rule 101: the forms of an endpoint, and what is said to those who write another.
func TestRule101FormsOfTheEndpoint(t *testing.T) {
	for value, want := range map[string]string{
		"unix:///run/kith/broker/broker.sock": "/run/kith/broker/broker.sock",
		"unix:/run/broker.sock":               "/run/broker.sock", // RFC 3986: the same without an authority
		"tcp://127.0.0.1:8000":                "127.0.0.1:8000",
		"tcp://[::1]:8000":                    "[::1]:8000",
		"tcp://broker.acme.example:8000":      "broker.acme.example:8000",
	} {
		if at, err := findBroker(value); err != nil || at.address != want {
			t.Errorf("%s: got %v, %v", value, at, err)
		}
	}
	for value, want := range map[string]string{
		"broker.sock":                         `is of scheme ""`,
		"/run/broker.sock":                    `is of scheme ""`,
		"unix:broker.sock":                    "has no absolute path",
		"unix://":                             "has no absolute path",
		"unix://run/broker.sock":              "has an authority",
		"unix://user@/run/broker.sock":        "has a user, a query or a fragment",
		"unix:///run/b.sock?x=1":              "has a user, a query or a fragment",
		"unix:///run/b.sock#":                 "has a user, a query or a fragment",
		"unix:///" + strings.Repeat("x", 200): "is too long a path",
		"http://127.0.0.1:8000":               `is of scheme "http"`,
		"https://broker:443":                  `is of scheme "https"`,
		"tcp://127.0.0.1":                     "has no port",
		"tcp://127.0.0.1:":                    "has no port",
		"tcp://127.0.0.1:0":                   "has no port",
		"tcp://127.0.0.1:99999":               "has no port",
		"tcp://:8000":                         "has no host",
		"tcp://a_b:8000":                      "has no host",
		"tcp://-a:8000":                       "has no host",
		"tcp://[fe80::1%25%20]:8000":          "has no host", // no interface has such a name
		"tcp://127.0.0.1:8000/":               "has a path",
		"tcp://127.0.0.1:8000/foo":            "has a path",
		"tcp:127.0.0.1:8000":                  "has a path",
		"tcp://user@127.0.0.1:8000":           "has a user",
		"tcp://127.0.0.1:8000?x":              "has a user, a query",
		"tcp://127.0.0.1:http":                "is no URI",
		"\x00":                                "is no URI",
	} {
		_, err := findBroker(value)
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), want) || !strings.Contains(fault.HintOf(err), "unix:///run/kith/broker/broker.sock") {
			t.Errorf("%q: got %v, hint %q, want %q", value, err, fault.HintOf(err), want)
		}
	}
	t.Setenv("SPIFFE_BROKER_SOCKET", "")
	if _, err := findBroker(""); fault.KindOf(err) != fault.NotFound || !strings.Contains(err.Error(), "SPIFFE_BROKER_SOCKET is not set") {
		t.Errorf("no endpoint at all: %v", err)
	}
	t.Setenv("SPIFFE_BROKER_SOCKET", "broker.sock")
	if _, err := findBroker(""); err == nil || !strings.Contains(err.Error(), `SPIFFE_BROKER_SOCKET: "broker.sock"`) {
		t.Errorf("the environment's mistake: %v", err)
	}
	if at, err := findBroker("unix:///run/b"); err != nil || at.address != "/run/b" {
		t.Errorf("what is said comes before the environment: %v, %v", at, err)
	}
}

// Rule 107: a client sends process ids to no other node.
func TestRule107ProcessIDsStayOnTheNode(t *testing.T) {
	t.Parallel()
	process, err := spiffe.ProcessReference(1)
	if err != nil {
		t.Fatal(err)
	}
	object, err := spiffe.ObjectReference(spiffe.KubernetesObject{Plural: "nodes", Group: "core", Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	for value, local := range map[string]bool{
		"unix:///run/b": true, "tcp://127.0.0.1:1": true, "tcp://127.8.8.8:1": true, "tcp://[::1]:1": true, "tcp://localhost:1": true,
		"tcp://10.0.0.7:1": false, "tcp://[2001:db8::1]:1": false, "tcp://0.0.0.0:1": false, "tcp://localhost.evil.example:1": false, "tcp://vm-7:1": false,
	} {
		at, err := findBroker(value)
		if err != nil {
			t.Fatal(err)
		}
		if err := at.carries(process); (err == nil) != local {
			t.Errorf("a process over %s: %v", value, err)
		}
		if err := at.carries(object); err != nil {
			t.Errorf("an object over %s: %v", value, err)
		}
	}
}

// Rule 102: only "unavailable" is asked again; "unauthenticated" with other
// credentials, and what the table calls an error never.
func TestRule102WhatIsAskedAgain(t *testing.T) {
	t.Parallel()
	strange := error(otherBroker{})
	for code, want := range map[codes.Code][2]bool{ // once, and in a stream
		codes.Unavailable: {true, true}, codes.Unauthenticated: {false, true}, codes.Internal: {false, true},
		codes.InvalidArgument: {}, codes.PermissionDenied: {}, codes.NotFound: {}, codes.Unimplemented: {},
	} {
		err := status.Error(code, "x")
		if got := [2]bool{again(err, nil), !final(code)}; got != want {
			t.Errorf("%s: got %v, want %v", code, got, want)
		}
		if again(err, &strange) {
			t.Errorf("%s of another endpoint is asked again", code)
		}
	}
}

func FuzzFindBroker(f *testing.F) {
	for _, seed := range []string{"unix:///run/b", "tcp://[::1]:80", "tcp://a.b:1", "unix:x", "%", "tcp://[::1%25eth0]:1", "tcp://[::1%25%20]:1", "unix:///%23%3f%25"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		at, err := findBroker(value)
		switch {
		case err != nil:
		case at.unix && (!strings.HasPrefix(at.address, "/") || len(at.address) > maxSocketPath):
			t.Errorf("%q: got %q", value, at.address)
		case !at.unix && strings.ContainsAny(at.address, "/?#@ "):
			t.Errorf("%q: got %q", value, at.address)
		}
	})
}
