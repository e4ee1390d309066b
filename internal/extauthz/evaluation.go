package extauthz

import (
	"time"

	"github.com/kith-id/kith/internal/fault"
)

// evaluation is a question in AuthZEN's words (5.1 to 5.4), of the right form.
type evaluation struct {
	subjectType, subjectID   string
	action                   string
	resourceType, resourceID string
	subject, resource        any // properties
	context                  any
}

// readEvaluation reads one. An error is about its form; what the words mean is
// found by question. Names that are not known are passed over (AuthZEN 10.1.1).
func readEvaluation(m map[string]any) (evaluation, error) {
	var e evaluation
	properties := func(o *object) any {
		v := o.take("properties")
		if _, ok := v.(map[string]any); !ok && v != nil {
			o.fail("%s.properties is no object", o.what)
		}
		return v
	}
	entity := func(name string) *object {
		if m[name] == nil {
			o := objectOf(name, map[string]any{})
			o.fail("%s is missing", name)
			return o
		}
		return objectOf(name, m[name])
	}
	subject, action, resource := entity("subject"), entity("action"), entity("resource")
	e.subjectType, e.subjectID, e.subject = subject.needed("type"), subject.needed("id"), properties(subject)
	e.action = action.needed("name")
	properties(action)
	e.resourceType, e.resourceID, e.resource = resource.needed("type"), resource.needed("id"), properties(resource)
	for _, o := range []*object{subject, action, resource} {
		if o.err != nil {
			return evaluation{}, o.err
		}
	}
	if _, ok := m["context"].(map[string]any); !ok && m["context"] != nil {
		return evaluation{}, fault.Invalidf("context is no object")
	}
	e.context = m["context"]
	return e, nil
}

// question says what an evaluation asks. With an error it is about nobody, and
// denied.
//
//	subject   spiffe or workload, its id a SPIFFE ID; or anonymous
//	action    the request's method, or tcp
//	resource  service, its id a service, or route, its id a path
//	context   ip_address, host, headers and port of the request; the rest, and above
//	          all a time, is passed over: the clock is the agent's
func (e evaluation) question(now time.Time) (Question, error) {
	t := told{from: e.subjectID, method: e.action}
	subject := objectOf("subject.properties", orEmpty(e.subject))
	resource := objectOf("resource.properties", orEmpty(e.resource))
	switch e.subjectType {
	case "spiffe", "workload":
		if e.subjectID == anonymous {
			subject.fail("a subject that is not known has the type anonymous")
		}
	case anonymous:
		t.from = anonymous
	default:
		subject.fail("subject.type %q is not known: spiffe, workload or anonymous", clip(e.subjectType, maxShort))
	}
	context := objectOf("context", orEmpty(e.context))
	t.address = toldBy("ip_address", subject, context, (*object).address)
	t.host = toldBy("host", resource, context, (*object).text)
	t.port = toldBy("port", resource, context, (*object).port)
	t.headers = e.headers(resource, context)
	switch e.resourceType {
	case "service":
		t.service, t.target = e.resourceID, resource.target("path")
	case "route":
		t.service, t.target = resource.text("service"), e.resourceID
	default:
		resource.fail("resource.type %q is not known: service or route", clip(e.resourceType, maxShort))
	}
	if t.tcp = e.action == "tcp"; t.tcp {
		t.method = ""
	}
	for _, o := range []*object{subject, resource, context} {
		if o.err != nil {
			return Question{Service: t.service}, o.err
		}
	}
	return t.question(now)
}

func orEmpty(v any) any {
	if v == nil {
		return map[string]any{}
	}
	return v
}

// toldBy is what an entity or the context says of the request. Where both do they have
// to agree: a condition is not met by one of two words, and "" is one.
func toldBy[T comparable](name string, entity, context *object, read func(*object, string) T) T {
	one, other := read(entity, name), read(context, name)
	switch {
	case context.m[name] == nil:
		return one
	case entity.m[name] != nil && one != other:
		context.fail("context.%s and %s.%s differ", name, entity.what, name)
	}
	return other
}

// headers are those of the resource or of the context, not of both.
func (e evaluation) headers(resource, context *object) fields {
	one, other := resource.headers("headers"), context.headers("headers")
	if one != nil && other != nil {
		context.fail("headers are in context and in resource.properties")
	}
	if other != nil {
		return other
	}
	return one
}
