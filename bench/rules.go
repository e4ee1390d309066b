package main

import (
	"fmt"
	"strings"
)

// spec is one rule in no engine's words: who, which methods (none: all), and a
// path whose segments are literal, "*" for any one, or "**" for the rest.
type spec struct {
	name     string
	from     string
	methods  []string
	segments []string
	deny     bool
}

// query is one request that is to be decided.
type query struct {
	from, method, path string
	segments           []string
}

// specs are n rules from one source for each hundred to one destination, each
// to a resource of its own; one in twenty denies. oneSource makes them all of
// one pair.
func specs(n int, oneSource bool) (rules []spec, sources int) {
	sources = max(1, n/100)
	if oneSource {
		sources = 1
	}
	for i := range n {
		resource := fmt.Sprintf("res%d", i/sources/4)
		shape := [][]string{{"v1", resource, "*"}, {"v1", resource}, {"v1", resource, "*", "items", "**"}, {"v1", resource, "*", "lines", "*"}}[i/sources%4]
		methods := [][]string{{"GET"}, {"GET", "POST"}, nil, {"PUT", "DELETE"}}[i/sources%4]
		rules = append(rules, spec{
			name: fmt.Sprintf("rule-%d", i), from: fmt.Sprintf("src-%d", i%sources),
			methods: methods, segments: shape, deny: i%20 == 19,
		})
	}
	return rules, sources
}

// queries go over sources and resources, so that no engine answers from a cache
// it would not have in life. Most are allowed.
func queries(n, sources int) []query {
	each := max(1, n/sources/4)
	out := make([]query, 1024)
	for i := range out {
		path := fmt.Sprintf("/v1/res%d/order-%d", i*97%each, i)
		out[i] = query{from: fmt.Sprintf("src-%d", i%min(64, sources)), method: "GET", path: path, segments: strings.Split(path[1:], "/")}
	}
	return out
}

// kithAction is the rule's action as Kith writes it.
func (s spec) kithAction() string {
	method := "*"
	if len(s.methods) > 0 {
		method = strings.Join(s.methods, ",")
	}
	var path strings.Builder
	for i, segment := range s.segments {
		switch segment {
		case "*":
			fmt.Fprintf(&path, "/{p%d}", i)
		case "**":
			path.WriteString("/{**}")
		default:
			path.WriteString("/" + segment)
		}
	}
	return method + " " + path.String()
}

// rego is the rule in the form that OPA's rule index serves best: equality on
// input alone, one body for each method.
func (s spec) rego() string {
	head := "permit"
	if s.deny {
		head = "forbid"
	}
	conditions := []string{fmt.Sprintf("input.from == %q", s.from)}
	for i, segment := range s.segments {
		if segment != "*" && segment != "**" {
			conditions = append(conditions, fmt.Sprintf("input.path[%d] == %q", i, segment))
		}
	}
	if s.segments[len(s.segments)-1] != "**" {
		conditions = append(conditions, fmt.Sprintf("input.n == %d", len(s.segments)))
	}
	methods := s.methods
	if len(methods) == 0 {
		methods = []string{""}
	}
	var b strings.Builder
	for _, method := range methods {
		all := conditions
		if method != "" {
			all = append([]string{fmt.Sprintf("input.method == %q", method)}, conditions...)
		}
		fmt.Fprintf(&b, "%s if { %s }\n", head, strings.Join(all, "; "))
	}
	return b.String()
}

// cedar is the rule in Cedar.
func (s spec) cedar() string {
	effect, action := "permit", "action"
	if s.deny {
		effect = "forbid"
	}
	if len(s.methods) > 0 {
		var names []string
		for _, method := range s.methods {
			names = append(names, fmt.Sprintf("Action::%q", method))
		}
		action = "action in [" + strings.Join(names, ", ") + "]"
	}
	pattern := "/" + strings.ReplaceAll(strings.Join(s.segments, "/"), "**", "*")
	when := fmt.Sprintf("context.path like %q", pattern)
	if s.segments[len(s.segments)-1] != "**" {
		when += fmt.Sprintf(" && context.n == %d", len(s.segments))
	}
	return fmt.Sprintf("%s (principal == User::%q, %s, resource == Service::\"orders\") when { %s };\n", effect, s.from, action, when)
}

// cel is the rule as an expression over method and segments.
func (s spec) cel() string {
	var all []string
	switch len(s.methods) {
	case 0:
	case 1:
		all = append(all, fmt.Sprintf("method == %q", s.methods[0]))
	default:
		var names []string
		for _, method := range s.methods {
			names = append(names, fmt.Sprintf("method == %q", method))
		}
		all = append(all, "("+strings.Join(names, " || ")+")")
	}
	if s.segments[len(s.segments)-1] == "**" {
		all = append(all, fmt.Sprintf("n >= %d", len(s.segments)-1))
	} else {
		all = append(all, fmt.Sprintf("n == %d", len(s.segments)))
	}
	for i := len(s.segments) - 1; i >= 0; i-- { // the most telling segment is not the first
		if segment := s.segments[i]; segment != "*" && segment != "**" {
			all = append(all, fmt.Sprintf("path[%d] == %q", i, segment))
		}
	}
	return strings.Join(all, " && ")
}
