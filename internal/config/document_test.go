package config_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kith-id/kith/internal/config"
)

func TestDocumentsAreChecked(t *testing.T) {
	good, err := load(t, `agent: {documents: [
  {path: httpapi/authz, service: orders, input: {from: user, prefix: spiffe://acme.example/vms/, method: request.method, path: path, host: host, headers: headers}},
  {path: envoy/authz}]}`)
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Document{
		{Path: "httpapi/authz", Service: "orders", Input: config.DocumentInput{
			From: "user", Prefix: "spiffe://acme.example/vms/", Method: "request.method", Path: "path", Host: "host", Headers: "headers",
		}},
		{Path: "envoy/authz"},
	}
	if diff := cmp.Diff(want, good.Agent.Documents); diff != "" {
		t.Error(diff)
	}
	for text, want := range map[string]string{
		"{path: ''}":                             "agent.documents[0].path",
		"{path: /a}":                             "agent.documents[0].path",
		"{path: a//b}":                           "agent.documents[0].path",
		"{path: a b}":                            "agent.documents[0].path",
		"{path: kith}":                           "agent.documents[0].path: kith is there already",
		"{path: kith/x}":                         "agent.documents[0].path: kith/x is there already",
		"{path: a, rego: x}":                     "rego",
		"{path: a}, {path: a/b}":                 "agent.documents[1].path: a/b and a overlap",
		"{path: a/b}, {path: a}":                 "agent.documents[1].path: a and a/b overlap",
		"{path: a, input: {from: x, method: m}}": "agent.documents[0].input.path: empty",
		"{path: a, input: {method: m, path: p}}": "agent.documents[0].input.from: empty",
		"{path: a, input: {from: x, path: p}}":   "agent.documents[0].input.method: empty",
		"{path: a, input: {host: h}}":            "agent.documents[0].input.from: empty",
		"{path: a, input: {from: a..b, method: m, path: p}}":                                   "agent.documents[0].input.from",
		"{path: a, input: {from: f, method: m, path: p, prefix: 'spiffe://acme.example/vms'}}": "agent.documents[0].input.prefix",
		"{path: a, input: {from: f, method: m, path: p, prefix: 'web/'}}":                      "agent.documents[0].input.prefix",
	} {
		if _, err := load(t, "agent: {documents: ["+text+"]}"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
	var many []string
	for i := range 65 {
		many = append(many, fmt.Sprintf("{path: a%d}", i))
	}
	if _, err := load(t, "agent: {documents: ["+strings.Join(many, ",")+"]}"); err == nil || !strings.Contains(err.Error(), "at most 64") {
		t.Errorf("65 documents: got %v", err)
	}
}
