package registry

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

// NodeRule admits nodes and names their class: the class is the rule's name.
type NodeRule struct {
	Name    string
	Require string // CEL over node.*
	Owner   string
}

// IdentityRule gives an identity to the workloads it matches.
type IdentityRule struct {
	Name    string
	Nodes   []string      // classes the rule is for; empty: all, if the ID says which
	ID      string        // template of the path
	Require string        // CEL over node.* and workload.*
	Default bool          // this identity comes first
	Hint    string        // told to the workload beside the SVID
	TTL     time.Duration // of its SVIDs; 0: the issuer's default
	Owner   string
}

// The lifetimes an identity rule may ask for.
const (
	MinTTL = 5 * time.Second
	MaxTTL = 24 * time.Hour
)

const (
	maxHint  = 255
	maxOwner = 255
)

// compiledNode is a node rule ready to be asked.
type compiledNode struct {
	rule    NodeRule
	require *requirement
}

// compiledIdentity is an identity rule ready to be asked.
type compiledIdentity struct {
	rule     IdentityRule
	template *template
	require  *requirement
	needs    []string // named by the template or by the requirement outside present()
	names    []string // needs, and what present() asks for
}

// compiler compiles rules, each distinct requirement once.
type compiler struct {
	dialect *dialect
	shared  map[string]*requirement
}

func newCompiler() (*compiler, error) {
	d, err := standardDialect()
	if err != nil {
		return nil, fmt.Errorf("prepare requirements: %w", err)
	}
	return &compiler{dialect: d, shared: map[string]*requirement{}}, nil
}

func (c *compiler) requirement(text string) (*requirement, error) {
	if r, ok := c.shared[text]; ok {
		return r, nil
	}
	r, err := c.dialect.compile(text)
	if err == nil {
		c.shared[text] = r
	}
	return r, err
}

// faults gathers every fault of a set of rules with its path.
type faults struct{ all []error }

func (f *faults) add(path string, err error) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			f.add(path, e)
		}
		return
	}
	f.all = append(f.all, fault.Invalidf("%s: %w", path, err))
}

// node compiles one node rule, adding its faults.
func (c *compiler) node(rule NodeRule, f *faults) *compiledNode {
	path := "nodes." + rule.Name
	f.add(path, ValidateName(rule.Name))
	f.add(path+".owner", validateText(rule.Owner, maxOwner))
	require, err := c.requirement(rule.Require)
	f.add(path+".require", err)
	if err != nil {
		return nil
	}
	if require == nil {
		f.add(path+".require", fault.Hint(fault.Invalidf("empty; it would admit every node"),
			`require: 'node.attestor == "join_token"'`))
		return nil
	}
	for _, name := range append(slices.Clone(require.attributes), require.optional...) {
		if !strings.HasPrefix(name, nodeScope) {
			f.add(path+".require", fault.Invalidf("%s is not known when a node is admitted; use node.*", name))
		}
		if name == classAttr {
			f.add(path+".require", fault.Invalidf("%s is what this rule decides", classAttr))
		}
	}
	if len(require.attributes) == 0 {
		f.add(path+".require", fault.Invalidf("names no node attribute outside present()"))
	}
	return &compiledNode{rule: rule, require: require}
}

// identity compiles one identity rule, adding its faults.
func (c *compiler) identity(rule IdentityRule, f *faults) *compiledIdentity {
	path := "identities." + rule.Name
	f.add(path, ValidateName(rule.Name))
	f.add(path+".owner", validateText(rule.Owner, maxOwner))
	f.add(path+".hint", validateText(rule.Hint, maxHint))
	for i, class := range rule.Nodes {
		if err := ValidateName(class); err != nil {
			f.add(path+".nodes", err)
		} else if slices.Contains(rule.Nodes[:i], class) {
			f.add(path+".nodes", fault.Invalidf("class %s is listed twice", class))
		}
	}
	if rule.TTL != 0 && (rule.TTL < MinTTL || rule.TTL > MaxTTL) {
		f.add(path+".ttl", fault.Invalidf("%s; want %s to %s", rule.TTL, MinTTL, MaxTTL))
	}
	template, terr := parseTemplate(rule.ID, c.dialect.schema)
	f.add(path+".id", terr)
	require, rerr := c.requirement(rule.Require)
	f.add(path+".require", rerr)
	if terr != nil || rerr != nil {
		return nil
	}
	out := &compiledIdentity{rule: rule, template: template, require: require, needs: template.attributes()}
	out.names = slices.Clone(out.needs)
	if require != nil {
		out.needs = append(out.needs, require.attributes...)
		out.names = append(slices.Clone(out.needs), require.optional...)
	}
	slices.Sort(out.needs)
	slices.Sort(out.names)
	out.needs, out.names = slices.Compact(out.needs), slices.Compact(out.names)
	f.add(path, out.check())
	return out
}

// check refuses a rule whose reach is not bounded: one for every class whose
// ID does not say the class, and one that trusts a path or a digest alone.
func (r *compiledIdentity) check() error {
	if len(r.rule.Nodes) == 0 && !r.template.scopedByNode() {
		return fault.Hint(fault.Invalidf("nodes is empty and the first varying segment of %s is not a node.* attribute", r.rule.ID),
			"list the node classes, or begin the ID with {node.class}")
	}
	weak := ""
	for _, name := range r.needs {
		if !strings.HasPrefix(name, workloadScope) {
			continue
		}
		if name != pathAttr && name != sha256Attr && name != pidAttr {
			return nil
		}
		weak = name
	}
	if weak != "" {
		return fault.Hint(fault.Invalidf("%s never suffices alone: a process can pass its socket to another and then run that program", weak),
			"require workload.unix.uid, workload.unix.user or workload.systemd.unit as well")
	}
	return nil
}

// missing is the first attribute the rule needs that is not there, or "".
func missing(needs []string, attrs Attributes) string {
	for _, name := range needs {
		if attrs[name] == "" {
			return name
		}
	}
	return ""
}

func validateText(s string, limit int) error {
	if len(s) > limit {
		return fault.Invalidf("%d bytes; at most %d", len(s), limit)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
		return fault.Invalidf("%q holds a character that is not printable", s)
	}
	return nil
}
