package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// ParseCall reads one call in the words of a rule: "GET /v1/orders/7",
// "grpc shop.v1.Orders/List", "tcp" or "tcp 5432". Its path is as it was
// written, and not yet in normal form.
func ParseCall(call string) (Request, error) {
	verb, operand, more := cutFields(call)
	form := fault.Hint(fault.Invalidf("%q is no call", clip(call)), `as in "GET /v1/orders/7", "grpc shop.v1.Orders/List" or "tcp 5432"`)
	switch {
	case more || verb == "":
		return Request{}, form
	case verb == "tcp":
		r := Request{Protocol: TCP}
		if operand == "" {
			return r, nil
		}
		port, err := strconv.ParseUint(operand, 10, 16)
		if err != nil || port == 0 {
			return Request{}, fault.Invalidf("%q is no port", clip(operand))
		}
		r.Port = uint16(port)
		return r, nil
	case verb == "grpc" && strings.Count(operand, "/") == 1:
		return Request{Protocol: GRPC, GRPC: true, Method: "POST", Path: "/" + operand}, nil
	case strings.HasPrefix(operand, "/") && checkMethod(verb) == nil:
		return Request{Protocol: HTTP, Method: verb, Path: operand}, nil
	}
	return Request{}, form
}

// Vector is one expectation of a policy.
type Vector struct {
	Name   string
	From   string // as a person names a caller: a service, /a/path, a whole ID, anonymous
	To     string // service
	Call   string // as in ParseCall
	Expect Effect
	Rule   string // the rule that must decide; empty for any
	Reason string // the word of the Reason; empty for any

	Supposed Supposed // what conditions read of the call; a query may stand in it too
	Port     uint16   // the application's own, where the call does not say it
}

// Vectors checks expectations against one set, compiling each service once.
// It is not safe for concurrent use.
type Vectors struct {
	set    Set
	tables map[string]*Table
	used   map[string]bool
}

// NewVectors checks against set.
func NewVectors(set Set) *Vectors {
	return &Vectors{set: set, tables: make(map[string]*Table), used: make(map[string]bool)}
}

// Check decides what a vector asks. Wrong is empty if the decision is the one
// expected; an error is a vector that cannot be asked.
func (c *Vectors) Check(v Vector) (d Decision, wrong string, err error) {
	from, err := c.set.Resolve(v.From)
	if err != nil {
		return d, "", err
	}
	table, err := c.table(v.To)
	if err != nil {
		return d, "", err
	}
	request, err := ParseCall(v.Call)
	if err != nil {
		return d, "", err
	}
	if err := v.suppose(&request); err != nil {
		return d, "", err
	}
	if d, err = decideRaw(table, from, request); err != nil {
		return d, "", err
	}
	if d.Rule != "" {
		c.used[d.Rule] = true
	}
	switch {
	case d.Effect != v.Expect:
		wrong = fmt.Sprintf("want %s, got %s", v.Expect, d.Effect)
	case v.Rule != "" && d.Rule != v.Rule:
		wrong = fmt.Sprintf("want rule %s, got %s", v.Rule, ruleOrNone(d.Rule))
	case v.Reason != "" && d.Reason.String() != v.Reason:
		wrong = fmt.Sprintf("want reason %s, got %s", v.Reason, d.Reason)
	}
	return d, wrong, nil
}

// suppose puts into a request what conditions read of it.
func (v Vector) suppose(r *Request) error {
	supposed := v.Supposed
	if path, query, there := strings.Cut(r.Path, "?"); there {
		if supposed.Query != "" {
			return fault.Invalidf("the query stands in the call and beside it")
		}
		r.Path, supposed.Query = path, query
	}
	if v.Port != 0 {
		if r.Port != 0 {
			return fault.Invalidf("the port stands in the call and beside it")
		}
		r.Port = v.Port
	}
	return supposed.Fill(r)
}

func ruleOrNone(rule string) string {
	if rule == "" {
		return "none"
	}
	return rule
}

// decideRaw is what an enforcement point does with a request as it was sent.
func decideRaw(t *Table, from spiffe.ID, r Request) (Decision, error) {
	if r.Protocol != TCP {
		normal, err := NormalizePath(r.Path, t.Paths())
		if err != nil {
			return t.Refuse(PathNotCanonical), nil
		}
		r.Path = normal
	}
	return t.Explain(t.Peer(from), r), nil
}

func (c *Vectors) table(service string) (*Table, error) {
	if t := c.tables[service]; t != nil {
		return t, nil
	}
	t, err := Compile(c.set, service)
	if err == nil {
		c.tables[service] = t
	}
	return t, err
}

// Coverage is which rules decided at least one vector, and which none.
func (c *Vectors) Coverage() (covered, missed []string) {
	for _, name := range slices.Sorted(maps.Keys(c.set.Rules)) {
		if c.used[name] {
			covered = append(covered, name)
		} else {
			missed = append(missed, name)
		}
	}
	return covered, missed
}

// Resolve reads a caller as a person names it: a service, a path, a whole ID,
// or anonymous, which is the zero ID.
func (s Set) Resolve(from string) (spiffe.ID, error) {
	switch {
	case from == "anonymous":
		return spiffe.ID{}, nil
	case strings.HasPrefix(from, "/"):
		id, err := spiffe.NewID(s.TrustDomain, from)
		return id, fault.Wrap(fault.Invalid, err)
	case strings.Contains(from, "://"):
		id, err := spiffe.ParseID(from)
		return id, fault.Wrap(fault.Invalid, err)
	}
	service, ok := s.Services[from]
	if !ok {
		err := fault.NotFoundf("unknown service %q", clip(from))
		if near := fault.Nearest(from, slices.Collect(maps.Keys(s.Services))); near != "" {
			return spiffe.ID{}, fault.Hint(err, "did you mean %s?", near)
		}
		return spiffe.ID{}, err
	}
	ids, err := service.IDs(s.TrustDomain)
	if err != nil || len(ids) == 0 {
		return spiffe.ID{}, fault.Invalidf("service %s has no identity", clip(from))
	}
	return ids[0], nil
}
