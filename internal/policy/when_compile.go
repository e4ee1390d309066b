package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"

	"github.com/kith-id/kith/internal/fault"
)

// compile parses, checks and plans a condition.
func (d *dialect) compile(text string) (*condition, error) {
	parsed, issues := d.env.Parse(text)
	if issues.Err() != nil {
		return nil, issueError(issues)
	}
	reading := reading{d: d}
	reading.walk(ast.NavigateAST(parsed.NativeRep()), nil)
	if len(reading.faults) > 0 {
		return nil, fault.Wrap(fault.Invalid, errors.Join(reading.faults...))
	}
	checked, issues := d.env.Check(parsed)
	if issues.Err() != nil {
		return nil, issueError(issues)
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, fault.Invalidf("condition has type %s; want bool, such as a comparison", checked.OutputType())
	}
	if worst, err := d.env.EstimateCost(checked, sizes{}); err != nil || worst.Max > maxWhenCost {
		return nil, fault.Hint(fault.Invalidf("condition could cost %d steps, at most %d are allowed", worst.Max, maxWhenCost), "compare with literals, and look into lists once")
	}
	c := &condition{text: text}
	for _, ref := range reading.refs {
		c.reads |= ref.on.reads()
		c.token = c.token || ref.on == onClaim
		switch ref.on {
		case onPort, onSNI, onSource, onTime, onPeerID, onTrustDomain, onPeerPath:
		default:
			c.request = true
		}
	}
	var err error
	info := checked.NativeRep().SourceInfo()
	for _, e := range conjuncts(checked.NativeRep().Expr(), nil) {
		part := clause{text: text, refs: d.factsOf(e)}
		if part.text, err = cel.ExprToString(e, info); err != nil {
			return nil, fault.Invalidf("condition: %w", err)
		}
		if t := (translation{d: d}); t.expr(e) {
			part.ops = t.ops
		} else if part.program, err = d.interpret(part.text, part.refs); err != nil {
			return nil, err
		}
		c.clauses = append(c.clauses, part)
	}
	if len(c.clauses) == 1 && len(c.clauses[0].ops) == 1 && c.clauses[0].ops[0].isLeaf() {
		c.only = &c.clauses[0].ops[0]
		c.quick = quickOf(c.only)
	}
	return c, nil
}

// program plans a clause for CEL's interpreter. It is within the bounds already,
// but not in CEL's own spelling, which has more blanks, escapes and parentheses.
func (d *dialect) program(text string) (cel.Program, error) {
	checked, issues := d.written.Compile(text)
	if issues.Err() != nil {
		return nil, issueError(issues)
	}
	program, err := d.env.Program(checked, cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, fault.Invalidf("condition: %w", err)
	}
	return program, nil
}

// issueError is the first problem CEL found, in one line with its column.
func issueError(issues *cel.Issues) error {
	if found := issues.Errors(); len(found) > 0 {
		first := found[0]
		message, _, _ := strings.Cut(first.Message, "\n")
		return fault.Invalidf("condition, column %d: %s", first.Location.Column()+1, message)
	}
	return fault.Invalidf("condition: %w", issues.Err())
}

// conjuncts are the operands of the outermost && of e.
func conjuncts(e ast.Expr, to []ast.Expr) []ast.Expr {
	if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.LogicalAnd {
		for _, arg := range e.AsCall().Args() {
			to = conjuncts(arg, to)
		}
		return to
	}
	return append(to, e)
}

// sizes bounds what conditions read, for the estimate of cost.
type sizes struct{}

// EstimateSize is how large a value of a type can be.
func (sizes) EstimateSize(e cost.AstNode) *cost.SizeEstimate {
	if e.Type().IsExactType(cel.StringType) {
		return &cost.SizeEstimate{Max: maxField}
	}
	return &cost.SizeEstimate{Max: maxClaims}
}

// EstimateCallCost prices our own functions.
func (sizes) EstimateCallCost(function, _ string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	if function == "within" {
		return &cost.CallEstimate{CostEstimate: cost.FixedCostEstimate(4 * maxNets)}
	}
	return nil
}

// reading gathers what a parsed condition reads, and what it may not say: names
// that are not there, which the type checker knows no nearest name for, entries
// that are not named by a literal, variables that would hide ours.
type reading struct {
	d      *dialect
	refs   []fact
	faults []error
}

func (r *reading) fault(format string, args ...any) {
	r.faults = append(r.faults, fault.Invalidf(format, args...))
}

func (r *reading) add(ref fact) {
	if !slices.ContainsFunc(r.refs, func(other fact) bool { return other.spelt == ref.spelt }) {
		r.refs = append(r.refs, ref)
	}
}

func (r *reading) walk(e ast.NavigableExpr, bound []string) {
	ref, ok, err := r.d.fact(e)
	switch {
	case err != nil:
		r.faults = append(r.faults, err)
		return
	case ok:
		r.add(ref)
		return
	}
	switch e.Kind() {
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		if v := c.IterVar(); v == "request" || v == "peer" || v == "jwt" {
			r.fault("variable %q would hide what a condition reads; name it otherwise", v)
		}
		bound = append(slices.Clone(bound), c.IterVar(), c.IterVar2(), c.AccuVar())
	case ast.IdentKind, ast.SelectKind:
		if name := selectorName(e); name != "" {
			r.name(name, bound)
			return
		}
	case ast.CallKind:
		if r.call(e) {
			return
		}
	}
	for _, child := range e.Children() {
		r.walk(child, bound)
	}
}

// name is one that stands where no fact is.
func (r *reading) name(name string, bound []string) {
	if root, _, _ := strings.Cut(name, "."); slices.Contains(bound, root) {
		return
	}
	if _, dict := r.d.dicts[name]; dict {
		r.faults = append(r.faults, fault.Hint(fault.Invalidf("%s is read one entry at a time", name), `as in %s["x-env"]`, name))
		return
	}
	err := fault.Invalidf("unknown name %q", clip(name))
	if near := fault.Nearest(name, r.d.names); near != "" {
		err = fault.Hint(err, "did you mean %s?", near)
	} else if strings.HasPrefix(name, "jwt.") {
		err = fault.Hint(err, `other claims are read with their type, as in jwt.text(%q)`, name[len("jwt."):])
	} else {
		err = fault.Hint(err, "a condition reads request.*, such as request.time, peer.* and jwt.*")
	}
	r.faults = append(r.faults, err)
}

// call checks what the type checker cannot; true if it has dealt with all of it.
func (r *reading) call(e ast.NavigableExpr) bool {
	call := e.AsCall()
	args := call.Args()
	switch name := call.FunctionName(); {
	case name == operators.In && len(args) == 2:
		ref, ok, err := r.d.membership(args[0], args[1])
		if err != nil {
			r.faults = append(r.faults, err)
		} else if ok {
			r.add(ref)
		}
		return ok || err != nil
	case name == "within" && len(args) == 1:
		if _, err := networks(args[0]); err != nil {
			r.faults = append(r.faults, err)
		}
	case name == overloads.Matches && len(args) == 1:
		if _, ok := literalText(args[0]); !ok {
			r.faults = append(r.faults, fault.Hint(fault.Invalidf("matches() takes a literal"), `as in request.path.matches("^/v[0-9]+/")`))
		}
	case strings.HasPrefix(name, "get") && len(args) == 1:
		if _, err := offset(args[0]); err != nil {
			r.faults = append(r.faults, err)
		}
	}
	return false
}

// membership is the fact whose presence `key in dict` tests.
func (d *dialect) membership(key, dict ast.Expr) (fact, bool, error) {
	name := selectorName(dict)
	if _, ok := d.dicts[name]; !ok {
		return fact{}, false, nil
	}
	text, ok := literalText(key)
	if !ok {
		return fact{}, false, fault.Invalidf("only a literal can be looked for in %s", name)
	}
	if name == presentName {
		ref, ok := d.byKey(text)
		return ref, ok, nil
	}
	ref, err := entryOf(name, text)
	return ref, err == nil, err
}

// maxNets bounds the networks of one within().
const maxNets = 64

// networks are the literals within() takes.
func networks(e ast.Expr) ([]network, error) {
	texts, ok := literalTexts(e)
	if !ok || len(texts) == 0 || len(texts) > maxNets {
		return nil, fault.Hint(fault.Invalidf("within() takes a network or up to %d in a list, as literals", maxNets), `as in request.source_ip.within(["10.0.0.0/8", "fd00::/8"])`)
	}
	nets := make([]network, 0, len(texts))
	for _, text := range texts {
		net, err := parseNetwork(text)
		if err != nil {
			return nil, err
		}
		nets = append(nets, networkOf(net))
	}
	return nets, nil
}

// parseNetwork reads 10.0.0.0/8 or one address.
func parseNetwork(text string) (netip.Prefix, error) {
	net, err := netip.ParsePrefix(text)
	if address, aerr := netip.ParseAddr(text); aerr == nil {
		net, err = netip.PrefixFrom(address, address.BitLen()), nil
	}
	switch {
	case err != nil || net.Addr().Is4In6() || net.Addr().Zone() != "":
		return net, fault.Hint(fault.Invalidf("%q is no network", clip(text)), "as in 10.0.0.0/8, fd00::/8 or 10.1.2.3")
	case net.Masked() != net:
		return net, fault.Hint(fault.Invalidf("%s has bits beyond its mask", net), "write %s", net.Masked())
	}
	return net, nil
}

// literalTexts is one text, or a list of them.
func literalTexts(e ast.Expr) ([]string, bool) {
	if text, ok := literalText(e); ok {
		return []string{text}, true
	}
	if e.Kind() != ast.ListKind {
		return nil, false
	}
	var texts []string
	for _, entry := range e.AsList().Elements() {
		text, ok := literalText(entry)
		if !ok {
			return nil, false
		}
		texts = append(texts, text)
	}
	return texts, true
}

// offset is the one zone a part of a time may be asked in: an offset from UTC.
// Named zones are refused: what they mean is in files that differ from host to host.
func offset(e ast.Expr) (time.Duration, error) {
	text, ok := literalText(e)
	wrong := fault.Hint(fault.Invalidf("a time zone is an offset from UTC in quotes"), `as in request.time.getHours("+01:00"); UTC needs none`)
	if !ok || len(text) != len("+01:00") || text[0] != '+' && text[0] != '-' {
		return 0, wrong
	}
	var h, m int
	if n, err := fmt.Sscanf(text[1:], "%02d:%02d", &h, &m); n != 2 || err != nil || h > 14 || m > 59 || fmt.Sprintf("%02d:%02d", h, m) != text[1:] {
		return 0, wrong
	}
	zone := time.Duration(h)*time.Hour + time.Duration(m)*time.Minute
	if text[0] == '-' {
		return -zone, nil
	}
	return zone, nil
}
