package config

import (
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/policy"
)

// maxVectors bounds the expectations of one file.
const maxVectors = 10_000

// vectorFile is the shape of a file of expectations.
type vectorFile struct {
	// Tests are expectations: what the rules decide of calls.
	Tests []vectorBody `yaml:"tests,omitempty"`
}

type vectorBody struct {
	At position `yaml:"-"`
	// Name is what the report calls it; the call if left out.
	Name string `yaml:"name,omitempty"`
	// From is who calls: a service, an ID, or anonymous.
	From string `yaml:"from"`
	// To is the service that is called.
	To string `yaml:"to"`
	// Call is one request: "GET /v1/orders/7", "grpc pkg.Service/Method", "tcp 5432".
	Call string `yaml:"call"`
	// Expect is allow or deny.
	Expect effect `yaml:"expect"`
	// Rule is the rule that must be the one that decides.
	Rule string `yaml:"rule,omitempty"`
	// Reason is the reason that the decision must have.
	Reason string `yaml:"reason,omitempty"`
	// Headers are those of the call, as "x-env: prod". What conditions read and is not said here is not there.
	Headers []string `yaml:"headers,omitempty"`
	// Query is that of the call, which may also stand in it, behind a question mark.
	Query string `yaml:"query,omitempty"`
	// Host is the host that the call names.
	Host string `yaml:"host,omitempty"`
	// SNI is the server name of its TLS connection.
	SNI string `yaml:"sni,omitempty"`
	// Source is the address it comes from, without a port.
	Source string `yaml:"source,omitempty"`
	// Port is the application's own port.
	Port count `yaml:"port,omitempty"`
	// Moment is when it comes, as "2027-01-01T09:00:00Z"; a time nobody knows if left out, so that a test says the same every day.
	Moment string `yaml:"at,omitempty"`
	// Claims are those of a user's token that is good, as JSON: '{"sub": "ann"}'.
	Claims string `yaml:"claims,omitempty"`
}

// Vector is an expectation and where it stands.
type Vector struct {
	policy.Vector
	At string // file:line
}

// ReadVectors reads expectations of a policy from a YAML file, or from stdin
// for "-". All faults are reported at once, each with its line.
func ReadVectors(name string, stdin io.Reader) ([]Vector, error) {
	name, data, err := readNamed(name, stdin)
	if err != nil {
		return nil, err
	}
	return ParseVectors(name, data)
}

// ParseVectors reads expectations from the bytes of a YAML file.
func ParseVectors(name string, data []byte) ([]Vector, error) {
	d := &decoder{file: name}
	docs, err := d.documents(data)
	if err != nil {
		return nil, err
	}
	var out []Vector
	for _, doc := range docs {
		var f vectorFile
		d.object(doc, reflect.ValueOf(&f).Elem(), nil)
		for _, b := range f.Tests {
			if v, ok := b.vector(d); ok {
				out = append(out, v)
			}
		}
		if len(out) > maxVectors {
			d.addf(doc, "more than %d tests: split the file", maxVectors)
			break
		}
	}
	return out, d.err()
}

func (b vectorBody) vector(d *decoder) (Vector, bool) {
	v := Vector{At: b.At.String(), Vector: policy.Vector{
		Name: b.Name, From: b.From, To: b.To, Call: b.Call, Rule: b.Rule, Reason: b.Reason, Port: uint16(b.Port),
		Supposed: policy.Supposed{Headers: b.Headers, Query: b.Query, Host: b.Host, SNI: b.SNI, Source: b.Source, Claims: b.Claims},
	}}
	if v.Name == "" {
		v.Name = strings.Join([]string{b.From, b.Call, "on", b.To}, " ")
	}
	var missing []string
	for _, field := range []struct{ name, value string }{{"from", b.From}, {"to", b.To}, {"call", b.Call}, {"expect", string(b.Expect)}} {
		if field.value == "" {
			missing = append(missing, field.name)
		}
	}
	switch {
	case len(missing) > 0:
		d.faultAt(b.At, "a test needs %s", strings.Join(missing, ", "))
		return v, false
	case string(b.Expect) == policy.Allow.String():
		v.Expect = policy.Allow
	}
	if _, err := policy.ParseCall(b.Call); err != nil {
		d.faultAt(b.At, "call: %v", err)
		return v, false
	}
	if b.Moment != "" {
		var err error
		if v.Supposed.At, err = time.Parse(time.RFC3339, b.Moment); err != nil {
			d.faultAt(b.At, "at: %q is no time: write it as 2027-01-01T09:00:00Z", b.Moment)
			return v, false
		}
	}
	return v, true
}
