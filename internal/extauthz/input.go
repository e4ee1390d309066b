package extauthz

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb/envoypb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// anonymous is how an application says that its caller has not proved who it is.
const anonymous = "anonymous"

// Document is where in OPA's tree an application looks for its decision, and how
// its input is read.
type Document struct {
	// Path is the package, such as httpapi/authz.
	Path string
	// Service is the destination; "" where the process has only one.
	Service string
	// Reading says what is where in the input; nil reads the same as the documents
	// under kith do.
	Reading *Reading
}

// Reading says where in an application's input a question's parts are: member
// names with dots between them. What it does not name is not looked at.
type Reading struct {
	From, Method, Path string // each must be there
	Host, Headers      string // "" is nowhere
	// Prefix makes the ID of a caller whom the application knows by a bare name.
	Prefix string
}

// told is what an application tells of a request.
type told struct {
	service, from, method, host, target string

	tcp     bool
	headers fields
	address netip.Addr
	port    uint16
}

// question is what was told, in our words. With an error it is about nobody, and
// denied.
func (t told) question(now time.Time) (Question, error) {
	facts := &policy.Facts{Time: now, Source: t.address}
	q := Question{Service: t.service, Target: t.target}
	q.Request = policy.Request{Protocol: policy.HTTP, Method: t.method, Host: t.host, Port: t.port, Facts: facts}
	if t.headers != nil {
		facts.Headers = t.headers
		if kind := t.headers.Values("Content-Type"); len(kind) > 0 && strings.HasPrefix(kind[0], "application/grpc") {
			q.Request.Protocol, q.Request.GRPC = policy.GRPC, true
		}
	}
	switch {
	case t.tcp && (t.method != "" || t.target != "" || t.headers != nil):
		return q, fault.Invalidf("a connection has no method, path or headers")
	case t.tcp:
		q.Request.Protocol = policy.TCP
	case t.method == "" || t.target == "":
		return q, fault.Invalidf("the question says no method or no path")
	}
	if t.from == anonymous {
		q.Anonymous = true
		return q, nil
	}
	var err error
	q.From, err = workloadID(t.from)
	return q, err
}

// question reads an input as doc says.
func (doc Document) question(input any, now time.Time) (Question, error) {
	m, ok := input.(map[string]any)
	if !ok {
		return Question{Service: doc.Service}, fault.Invalidf("there is no input, or it is no object")
	}
	if doc.Reading != nil {
		return doc.mapped(m, now)
	}
	if attributes, ok := m["attributes"]; ok {
		return doc.envoy(attributes, now)
	}
	return doc.simple(m, now)
}

// simple reads the form of our own. It knows what it holds, so that a word
// misspelt is told and not passed over.
func (doc Document) simple(m map[string]any, now time.Time) (Question, error) {
	o := objectOf("input", m)
	t := told{
		service: o.text("to"), from: o.needed("from"), method: o.text("method"), host: o.text("host"),
		headers: o.headers("headers"), address: o.address("address"), port: o.port("port"),
	}
	switch protocol := o.text("protocol"); protocol {
	case "", "http":
	case "tcp":
		t.tcp = true
	default:
		o.fail("input.protocol is neither http nor tcp")
	}
	t.target = o.target("path")
	o.rest()
	return doc.finish(o, t, now)
}

// mapped reads the form of an application that was there before us.
func (doc Document) mapped(m map[string]any, now time.Time) (Question, error) {
	at := func(where string) (*object, string) {
		o, names := objectOf("input", m), strings.Split(where, ".")
		for _, name := range names[:len(names)-1] {
			inner := o.m[name]
			if inner == nil { // so is all that is in it
				inner = map[string]any{}
			}
			o = objectOf(o.what+"."+name, inner)
		}
		return o, names[len(names)-1]
	}
	t := told{service: doc.Service}
	all := objectOf("input", m)
	read := func(where string, take func(o *object, name string)) {
		if where == "" {
			return
		}
		o, name := at(where)
		if o.err == nil {
			take(o, name)
		}
		if o.err != nil && all.err == nil {
			all.err = o.err
		}
	}
	read(doc.Reading.From, func(o *object, name string) { t.from = o.needed(name) })
	read(doc.Reading.Method, func(o *object, name string) { t.method = o.needed(name) })
	read(doc.Reading.Path, func(o *object, name string) { t.target = o.target(name) })
	read(doc.Reading.Host, func(o *object, name string) { t.host = o.text(name) })
	read(doc.Reading.Headers, func(o *object, name string) { t.headers = o.headers(name) })
	if doc.Reading.Prefix != "" && t.from != "" && t.from != anonymous {
		if strings.Contains(t.from, "/") { // it is one segment, whatever it says
			all.fail("input.%s is no bare name", doc.Reading.From)
		}
		t.from = doc.Reading.Prefix + t.from
	}
	return doc.finish(all, t, now)
}

func (doc Document) finish(o *object, t told, now time.Time) (Question, error) {
	if t.service == "" {
		t.service = doc.Service
	}
	if o.err == nil && doc.Service != "" && t.service != doc.Service {
		o.fail("the document is about service %s, the input about %s", doc.Service, clip(t.service, maxShort))
	}
	if o.err != nil {
		return Question{Service: t.service}, o.err
	}
	return t.question(now)
}

// target is a request target: text, or path segments in a list, as OPA's tutorial
// has them.
func (o *object) target(name string) string {
	v := o.take(name)
	segments, ok := v.([]any)
	if !ok {
		return o.text(name)
	}
	var out strings.Builder
	for _, segment := range segments {
		text, ok := segment.(string)
		if !ok {
			o.fail("%s.%s is neither a string nor a list of strings", o.what, name)
		}
		out.WriteString("/" + url.PathEscape(text))
	}
	if out.Len() == 0 {
		return "/"
	}
	return out.String()
}

// envoy reads the attributes that OPA's Envoy plugin hands to policies, which are
// those of ext_authz.
func (doc Document) envoy(attributes any, now time.Time) (Question, error) {
	text, err := json.Marshal(attributes)
	if err != nil {
		return Question{Service: doc.Service}, fault.Invalidf("input.attributes: %w", err)
	}
	in := &envoypb.AttributeContext{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, in); err != nil {
		return Question{Service: doc.Service}, fault.Invalidf("input.attributes: %w", err)
	}
	q, err := questionOf(in, now)
	switch {
	case q.Service == "":
		q.Service = doc.Service
	case doc.Service != "" && q.Service != doc.Service && err == nil:
		q.From, q.Anonymous = spiffe.ID{}, false
		err = fault.Invalidf("the document is about service %s, the input about %s", doc.Service, clip(q.Service, maxShort))
	}
	return q, err
}
