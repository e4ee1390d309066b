package policy

import (
	"regexp"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// term is a text or a number: written, read, counted, or what exists() is at.
func (t *translation) term(e ast.Expr) (*term, bool) {
	if text, ok := literalText(e); ok {
		return &term{kind: termText, text: text}, true
	}
	if n, ok := literalNumber(e); ok {
		return &term{kind: termNumber, number: n}, true
	}
	if isIdent(e, t.entry) {
		return &term{kind: termEntry}, true
	}
	if o, ok := t.clock(e); ok {
		return &term{kind: termClock, clock: o.clock, zone: o.zone}, true
	}
	if o, ok := t.segment(e); ok {
		return &term{kind: termSegment, ref: o.ref, number: o.number}, true
	}
	if ref, ok := t.size(e); ok {
		return &term{kind: termSize, ref: ref}, true
	}
	ref, ok := t.read(e)
	return &term{kind: termFact, ref: ref}, ok && (ref.kind == kindText || ref.kind == kindNumber)
}

// text is a term that is one.
func (t *translation) text(e ast.Expr) (*term, bool) {
	a, ok := t.term(e)
	return a, ok && a.is() == kindText
}

func isIdent(e ast.Expr, name string) bool {
	return name != "" && e.Kind() == ast.IdentKind && e.AsIdent() == name
}

// compareTerms is a comparison of two texts, or of two numbers.
func (t *translation) compareTerms(c comparison, left, right ast.Expr) bool {
	a, ok := t.term(left)
	b, too := t.term(right)
	if !ok || !too || a.is() != b.is() {
		return false
	}
	kind := opTexts
	if a.is() == kindNumber {
		kind = opNumbers
	}
	return t.push(op{kind: kind, compare: c, a: a, b: b})
}

// partOf is startsWith, endsWith or contains, of two texts.
func (t *translation) partOf(part opKind, of, with ast.Expr) bool {
	a, ok := t.text(of)
	b, too := t.text(with)
	return ok && too && t.push(op{kind: opTexts, part: part, a: a, b: b})
}

// inTerms is `text in list` and `text in [literals]`.
func (t *translation) inTerms(item, list ast.Expr) bool {
	a, ok := t.text(item)
	if !ok {
		return false
	}
	if ref, ok := t.read(list); ok {
		return ref.kind == kindList && t.push(op{kind: opIn, a: a, ref: ref})
	}
	if list.Kind() != ast.ListKind || list.AsList().Size() == 0 {
		return false
	}
	texts, literal := literalTexts(list)
	return literal && t.push(op{kind: opAmong, a: a, texts: texts})
}

// like is matches() of a text that is no fact.
func (t *translation) like(of ast.Expr, pattern string) bool {
	a, ok := t.text(of)
	compiled, err := regexp.Compile(pattern)
	return ok && err == nil && t.push(op{kind: opLike, a: a, pattern: compiled})
}

// choice is `x ? y : z`, of outcomes.
func (t *translation) choice(args []ast.Expr) bool {
	o := op{kind: opChoice}
	for i, at := range []*int{&o.left, &o.right, &o.other} {
		if !t.expr(args[i]) {
			return false
		}
		*at = len(t.ops) - 1
	}
	return t.push(o)
}

// quantified is exists() or all() over a list that is read, or over literals.
func (t *translation) quantified(c ast.ComprehensionExpr) bool {
	kind, body := quantifier(c)
	if kind == 0 || t.entry != "" {
		return false
	}
	o := op{kind: kind}
	var ok bool
	if o.ref, ok = t.read(c.IterRange()); !ok {
		if c.IterRange().Kind() != ast.ListKind {
			return false
		}
		if o.texts, ok = literalTexts(c.IterRange()); !ok || len(o.texts) == 0 {
			return false
		}
	} else if o.ref.kind != kindList {
		return false
	}
	t.entry = c.IterVar()
	ok = t.expr(body)
	t.entry = ""
	o.left = len(t.ops) - 1
	return ok && t.push(o)
}

// quantifier is what the macros exists and all expand to, and what they ask of each
// entry: all of it has to be as it is there, or it is something else.
func quantifier(c ast.ComprehensionExpr) (kind opKind, body ast.Expr) {
	first, literal := boolOf(c.AccuInit())
	kind, join := opExists, operators.LogicalOr
	if first {
		kind, join = opAll, operators.LogicalAnd
	}
	step, goesOn := callOf(c.LoopStep(), join, 2), callOf(c.LoopCondition(), operators.NotStrictlyFalse, 1)
	if !literal || step == nil || goesOn == nil || c.HasIterVar2() || !isIdent(c.Result(), c.AccuVar()) || !isIdent(step[0], c.AccuVar()) {
		return 0, nil
	}
	if kind == opExists {
		if goesOn = callOf(goesOn[0], operators.LogicalNot, 1); goesOn == nil {
			return 0, nil
		}
	}
	if !isIdent(goesOn[0], c.AccuVar()) {
		return 0, nil
	}
	return kind, step[1]
}

// callOf are the arguments of a call of a function, nil for another expression.
func callOf(e ast.Expr, function string, n int) []ast.Expr {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != function || len(e.AsCall().Args()) != n || e.AsCall().IsMemberFunction() {
		return nil
	}
	return e.AsCall().Args()
}

func boolOf(e ast.Expr) (value, ok bool) {
	if e.Kind() != ast.LiteralKind {
		return false, false
	}
	flag, ok := e.AsLiteral().(types.Bool)
	return bool(flag), ok
}

// parts are the functions that look for a text in another.
func parts() map[string]opKind {
	return map[string]opKind{overloads.StartsWith: opPrefix, overloads.EndsWith: opSuffix, overloads.Contains: opContains}
}
