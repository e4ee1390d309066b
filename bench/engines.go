package main

import (
	"context"
	"errors"
	"strings"

	"cel.dev/cel-go/cel"
	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// engine decides the i-th of its queries. Whatever can be made ready before the
// request comes, is: the caller resolved, the input in the engine's own types.
type engine func(i int) (allowed bool, err error)

// maker writes the rules down in an engine's own words and returns what loads
// them.
type maker func(rules []spec, asked []query) (load func() (engine, error), err error)

func makers() map[string]maker {
	return map[string]maker{
		"kith": newKith, "kith-path": newKithPath, "opa": newOPA, "cedar": newCedar, "cel": newCEL,
		"kith-explain": newKithExplain, "kith-recompile": newKithChange(false), "kith-change": newKithChange(true),
	}
}

// kithSet is the rules as they come off the wire, to one service.
func kithSet(rules []spec) (policy.Set, error) {
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		return policy.Set{}, err
	}
	set := policy.Set{TrustDomain: td, Revision: 1, Services: map[string]policy.Service{}, Rules: map[string]policy.Rule{}}
	add := func(name string) {
		set.Services[name] = policy.Service{Name: name, Identities: []string{"/eks/shop/" + name}, Protocol: policy.HTTP}
	}
	add("orders")
	for _, s := range rules {
		if _, ok := set.Services[s.from]; !ok {
			add(s.from)
		}
		r := policy.Rule{Name: s.name, From: []string{s.from}, To: "orders", Allow: []string{s.kithAction()}}
		if s.deny {
			r.Allow, r.Deny = nil, r.Allow
		}
		set.Rules[s.name] = r
	}
	return set, nil
}

// kithTable compiles the rules and resolves the callers, as a connection does once.
func kithTable(set policy.Set, asked []query) (*policy.Table, []policy.Peer, error) {
	table, err := policy.Compile(set, "orders")
	if err != nil {
		return nil, nil, err
	}
	peers := make([]policy.Peer, len(asked))
	for i, q := range asked {
		id, err := spiffe.NewID(set.TrustDomain, "/eks/shop/"+q.from)
		if err != nil {
			return nil, nil, err
		}
		peers[i] = table.Peer(id)
	}
	return table, peers, nil
}

func newKith(rules []spec, asked []query) (func() (engine, error), error) {
	set, err := kithSet(rules)
	if err != nil {
		return nil, err
	}
	requests := make([]policy.Request, len(asked))
	for i, q := range asked {
		requests[i] = policy.Request{Protocol: policy.HTTP, Method: q.method, Path: q.path}
	}
	return func() (engine, error) {
		table, peers, err := kithTable(set, asked)
		return func(i int) (bool, error) { return table.Decide(peers[i], requests[i]).Effect == policy.Allow, nil }, err
	}, nil
}

func newOPA(rules []spec, asked []query) (func() (engine, error), error) {
	var module strings.Builder
	module.WriteString("package bench\n\ndefault allow := false\n\ndefault forbid := false\n\nallow if { permit; not forbid }\n\n")
	for _, s := range rules {
		module.WriteString(s.rego())
	}
	inputs := make([]ast.Value, len(asked))
	for i, q := range asked {
		path := make([]any, len(q.segments))
		for j, segment := range q.segments {
			path[j] = segment
		}
		value, err := ast.InterfaceToValue(map[string]any{"from": q.from, "method": q.method, "path": path, "n": len(path)})
		if err != nil {
			return nil, err
		}
		inputs[i] = value
	}
	text := module.String()
	return func() (engine, error) {
		ctx := context.Background()
		prepared, err := rego.New(rego.Query("data.bench.allow"), rego.Module("bench.rego", text)).PrepareForEval(ctx)
		return func(i int) (bool, error) {
			result, err := prepared.Eval(ctx, rego.EvalParsedInput(inputs[i]))
			return result.Allowed(), err
		}, err
	}, nil
}

// newCedar slices the policies by principal, which Cedar leaves to its host.
func newCedar(rules []spec, asked []query) (func() (engine, error), error) {
	texts := map[string]*strings.Builder{}
	for _, s := range rules {
		if texts[s.from] == nil {
			texts[s.from] = &strings.Builder{}
		}
		texts[s.from].WriteString(s.cedar())
	}
	requests := make([]cedar.Request, len(asked))
	for i, q := range asked {
		requests[i] = cedar.Request{
			Principal: cedar.NewEntityUID("User", types.String(q.from)), Action: cedar.NewEntityUID("Action", types.String(q.method)),
			Resource: cedar.NewEntityUID("Service", "orders"),
			Context:  cedar.NewRecord(cedar.RecordMap{"path": cedar.String(q.path), "n": cedar.Long(len(q.segments))}),
		}
	}
	return func() (engine, error) {
		sets := map[string]*cedar.PolicySet{}
		for from, text := range texts {
			set, err := cedar.NewPolicySetFromBytes(from, []byte(text.String()))
			if err != nil {
				return nil, err
			}
			sets[from] = set
		}
		entities := cedar.EntityMap{}
		return func(i int) (bool, error) {
			decision, _ := cedar.Authorize(sets[asked[i].from], entities, requests[i])
			return decision == cedar.Allow, nil
		}, nil
	}, nil
}

// bucket is the compiled expressions of one source.
type bucket struct{ permits, forbids []cel.Program }

func anyHolds(programs []cel.Program, input any) (bool, error) {
	for _, p := range programs {
		value, _, err := p.Eval(input)
		if err != nil {
			return false, err
		}
		if is, ok := value.Value().(bool); ok && is {
			return true, nil
		}
	}
	return false, nil
}

// newCEL puts the expressions into buckets by source; the destination is one.
func newCEL(rules []spec, asked []query) (func() (engine, error), error) {
	texts := make([]string, len(rules))
	for i, s := range rules {
		texts[i] = s.cel()
	}
	inputs := make([]map[string]any, len(asked))
	for i, q := range asked {
		inputs[i] = map[string]any{"method": q.method, "n": len(q.segments), "path": q.segments}
	}
	return func() (engine, error) {
		buckets, err := celBuckets(rules, texts)
		return func(i int) (bool, error) {
			b := buckets[asked[i].from]
			if b == nil {
				return false, errors.New("no rules of " + asked[i].from)
			}
			if denied, err := anyHolds(b.forbids, inputs[i]); denied || err != nil {
				return false, err
			}
			return anyHolds(b.permits, inputs[i])
		}, err
	}, nil
}

func celBuckets(rules []spec, texts []string) (map[string]*bucket, error) {
	env, err := cel.NewEnv(cel.Variable("method", cel.StringType), cel.Variable("n", cel.IntType), cel.Variable("path", cel.ListType(cel.StringType)))
	if err != nil {
		return nil, err
	}
	buckets := map[string]*bucket{}
	for i, s := range rules {
		parsed, issues := env.Compile(texts[i])
		if issues != nil && issues.Err() != nil {
			return nil, issues.Err()
		}
		program, err := env.Program(parsed)
		if err != nil {
			return nil, err
		}
		b := buckets[s.from]
		if b == nil {
			b = &bucket{}
			buckets[s.from] = b
		}
		if s.deny {
			b.forbids = append(b.forbids, program)
		} else {
			b.permits = append(b.permits, program)
		}
	}
	return buckets, nil
}
