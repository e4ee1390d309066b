package server

import (
	"strings"

	"github.com/kith-id/kith/internal/registry"
)

// mintable says whether a node could obtain the path under the identity rules,
// at most: it knows the node's attributes, and takes every workload attribute
// for possible.
func mintable(reach []registry.Reach, node registry.Node, path string) bool {
	scope := node.Scope()
	for _, r := range reach {
		for _, class := range r.Classes {
			if class == node.Class && fits(r.Pattern, path, scope) {
				return true
			}
		}
	}
	return false
}

// fits matches a path against a pattern of registry.Reach, segment by segment.
func fits(pattern, path string, scope registry.Attributes) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if !segmentFits(want[i], got[i], scope) {
			return false
		}
	}
	return true
}

// segmentFits matches one segment: a placeholder of a plain node attribute
// stands for its value, any other for one or more characters.
func segmentFits(pattern, text string, scope registry.Attributes) bool {
	open := strings.IndexByte(pattern, '{')
	if open < 0 {
		return pattern == text
	}
	rest, ok := strings.CutPrefix(text, pattern[:open])
	if !ok {
		return false
	}
	name, tail, ok := strings.Cut(pattern[open+1:], "}")
	if !ok {
		return false
	}
	if value := scope[name]; value != "" {
		after, ok := strings.CutPrefix(rest, value)
		return ok && segmentFits(tail, after, scope)
	}
	if strings.HasPrefix(name, "node.") && !strings.Contains(name, "|") {
		return false // the node lacks the attribute, so the rule never matches
	}
	for i := 1; i <= len(rest); i++ {
		if segmentFits(tail, rest[i:], scope) {
			return true
		}
	}
	return false
}
