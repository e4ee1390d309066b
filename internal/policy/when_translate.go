package policy

import (
	"regexp"
	"strings"
	"time"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// translation turns a checked clause into ops, where it has a shape they cover.
type translation struct {
	d     *dialect
	ops   []op
	entry string // what exists() or all() call what they are at; empty outside them
}

// push adds a step; the last one pushed is the clause.
func (t *translation) push(o op) bool {
	t.ops = append(t.ops, o)
	return true
}

// expr translates e; false if it has another shape. Its step is the last one.
func (t *translation) expr(e ast.Expr) bool {
	if e.Kind() == ast.LiteralKind {
		flag, ok := e.AsLiteral().(types.Bool)
		return ok && t.push(op{kind: opAlways, always: bool(flag)})
	}
	if ref, ok := t.read(e); ok {
		return ref.kind == kindFlag && t.push(op{kind: opFlag, ref: ref})
	}
	if e.Kind() == ast.ComprehensionKind {
		return t.quantified(e.AsComprehension())
	}
	if e.Kind() != ast.CallKind {
		return false
	}
	call := e.AsCall()
	args := call.Args()
	switch name := call.FunctionName(); name {
	case operators.LogicalAnd, operators.LogicalOr:
		return t.junction(name, args)
	case operators.LogicalNot:
		if !t.expr(args[0]) {
			return false
		}
		return t.push(op{kind: opNot, left: len(t.ops) - 1})
	case operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		return t.comparison(comparisons()[name], args[0], args[1]) || t.compareTerms(comparisons()[name], args[0], args[1])
	case operators.Conditional:
		return t.choice(args)
	case operators.In:
		return t.in(args[0], args[1]) || t.inTerms(args[0], args[1])
	case overloads.StartsWith, overloads.EndsWith, overloads.Contains:
		ref, ok := t.read(call.Target())
		text, literal := literalText(args[0])
		if !ok || !literal {
			return t.partOf(parts()[name], call.Target(), args[0])
		}
		return t.push(op{kind: parts()[name], ref: ref, text: text})
	case overloads.Matches:
		ref, ok := t.read(call.Target())
		text, literal := literalText(args[0])
		if !literal {
			return false
		}
		if !ok || ref.kind != kindText {
			return t.like(call.Target(), text)
		}
		pattern, err := regexp.Compile(text)
		return err == nil && t.push(op{kind: opMatches, ref: ref, pattern: pattern})
	case "within":
		ref, ok := t.read(call.Target())
		nets, err := networks(args[0])
		return ok && err == nil && t.push(op{kind: opWithin, ref: ref, nets: nets})
	}
	return false
}

func comparisons() map[string]comparison {
	return map[string]comparison{
		operators.Equals: equal, operators.NotEquals: notEqual, operators.Less: less,
		operators.LessEquals: lessOrEqual, operators.Greater: greater, operators.GreaterEquals: greaterOrEqual,
	}
}

// mirrored is c with its sides exchanged.
func (c comparison) mirrored() comparison {
	return [...]comparison{equal: equal, notEqual: notEqual, less: greater, lessOrEqual: greaterOrEqual, greater: less, greaterOrEqual: lessOrEqual}[c]
}

func (t *translation) read(e ast.Expr) (fact, bool) {
	ref, ok, err := t.d.fact(e)
	return ref, ok && err == nil
}

// junction folds the operands of && or ||, of which there may be more than two.
func (t *translation) junction(name string, args []ast.Expr) bool {
	kind := opAnd
	if name == operators.LogicalOr {
		kind = opOr
	}
	for i, arg := range args {
		left := len(t.ops) - 1
		if !t.expr(arg) {
			return false
		}
		if i > 0 {
			t.push(op{kind: kind, left: left, right: len(t.ops) - 1})
		}
	}
	return true
}

// comparison is of a fact, or a part of one, with a literal on either side.
func (t *translation) comparison(c comparison, left, right ast.Expr) bool {
	if t.compare(c, left, right) {
		return true
	}
	return t.compare(c.mirrored(), right, left)
}

func (t *translation) compare(c comparison, side, with ast.Expr) bool {
	if o, ok := t.clock(side); ok {
		n, literal := literalNumber(with)
		o.kind, o.compare, o.number = opClock, c, n
		return literal && t.push(o)
	}
	if o, ok := t.segment(side); ok {
		text, literal := literalText(with)
		o.compare, o.texts = c, []string{text}
		return literal && c <= notEqual && t.push(o)
	}
	if ref, ok := t.size(side); ok {
		n, literal := literalNumber(with)
		return literal && t.push(op{kind: opSize, compare: c, ref: ref, number: n})
	}
	ref, ok := t.read(side)
	if !ok {
		return false
	}
	switch ref.kind {
	case kindText:
		text, literal := literalText(with)
		return literal && c <= notEqual && t.push(op{kind: opEquals, compare: c, ref: ref, text: text})
	case kindNumber:
		n, literal := literalNumber(with)
		return literal && t.push(op{kind: opNumber, compare: c, ref: ref, number: n})
	case kindMoment:
		at, literal := literalMoment(with)
		return literal && t.push(op{kind: opMoment, compare: c, ref: ref, moment: at})
	case kindFlag:
		flag, literal := with.AsLiteral().(types.Bool)
		if !literal || with.Kind() != ast.LiteralKind || c > notEqual {
			return false
		}
		t.push(op{kind: opFlag, ref: ref})
		if bool(flag) != (c == equal) {
			t.push(op{kind: opNot, left: len(t.ops) - 1})
		}
		return true
	default:
		return false
	}
}

// in is `x in [literals]`, `"x" in list` or `"x" in dictionary`.
func (t *translation) in(item, list ast.Expr) bool {
	if ref, ok, err := t.d.membership(item, list); ok && err == nil {
		return t.push(op{kind: opPresent, ref: ref})
	}
	if ref, ok := t.read(list); ok {
		text, literal := literalText(item)
		o := op{kind: opHas, ref: ref, text: text}
		if words := strings.Fields(text); ref.name == spaced && len(words) == 1 && words[0] == text {
			o.kind = opHasWord
		}
		return literal && ref.kind == kindList && t.push(o)
	}
	if list.Kind() != ast.ListKind || list.AsList().Size() == 0 {
		return false
	}
	if o, ok := t.clock(item); ok {
		numbers, literal := literalNumbers(list)
		o.kind, o.numbers = opClockOf, numbers
		return literal && t.push(o)
	}
	if o, ok := t.segment(item); ok {
		texts, literal := literalTexts(list)
		o.texts = texts
		return literal && t.push(o)
	}
	ref, ok := t.read(item)
	if !ok {
		return false
	}
	if ref.kind == kindNumber {
		numbers, literal := literalNumbers(list)
		return literal && t.push(op{kind: opNumberOf, ref: ref, numbers: numbers})
	}
	texts, literal := literalTexts(list)
	return literal && ref.kind == kindText && t.push(op{kind: opOneOf, ref: ref, texts: texts})
}

// clock is request.time.getHours() and its like.
func (t *translation) clock(e ast.Expr) (op, bool) {
	if e.Kind() != ast.CallKind || !e.AsCall().IsMemberFunction() {
		return op{}, false
	}
	parts := map[string]clock{
		overloads.TimeGetFullYear: clockYear, overloads.TimeGetMonth: clockMonth, overloads.TimeGetDayOfYear: clockDayOfYear,
		overloads.TimeGetDayOfMonth: clockDayOfMonth, overloads.TimeGetDate: clockDate, overloads.TimeGetDayOfWeek: clockDayOfWeek,
		overloads.TimeGetHours: clockHours, overloads.TimeGetMinutes: clockMinutes, overloads.TimeGetSeconds: clockSeconds,
	}
	call := e.AsCall()
	o := op{clock: parts[call.FunctionName()]}
	var ok bool
	if o.ref, ok = t.read(call.Target()); !ok || o.clock == 0 || o.ref.kind != kindMoment {
		return op{}, false
	}
	if args := call.Args(); len(args) == 1 {
		var err error
		if o.zone, err = offset(args[0]); err != nil {
			return op{}, false
		}
	}
	return o, true
}

// size is size(text), size(list) and their like with a dot.
func (t *translation) size(e ast.Expr) (fact, bool) {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != overloads.Size {
		return fact{}, false
	}
	of := e.AsCall().Target()
	if !e.AsCall().IsMemberFunction() {
		of = e.AsCall().Args()[0]
	}
	ref, ok := t.read(of)
	return ref, ok && (ref.kind == kindText || ref.kind == kindList)
}

// segment is list[literal].
func (t *translation) segment(e ast.Expr) (op, bool) {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operators.Index {
		return op{}, false
	}
	args := e.AsCall().Args()
	ref, ok := t.read(args[0])
	at, literal := literalNumber(args[1])
	if !ok || !literal || ref.kind != kindList || at < 0 {
		return op{}, false
	}
	return op{kind: opSegment, ref: ref, number: at}, true
}

func literalNumber(e ast.Expr) (int64, bool) {
	if e.Kind() != ast.LiteralKind {
		return 0, false
	}
	n, ok := e.AsLiteral().(types.Int)
	return int64(n), ok
}

func literalNumbers(e ast.Expr) ([]int64, bool) {
	var numbers []int64
	for _, entry := range e.AsList().Elements() {
		n, ok := literalNumber(entry)
		if !ok {
			return nil, false
		}
		numbers = append(numbers, n)
	}
	return numbers, true
}

// literalMoment is timestamp("2030-01-01T00:00:00Z").
func literalMoment(e ast.Expr) (time.Time, bool) {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != overloads.TypeConvertTimestamp {
		return time.Time{}, false
	}
	text, ok := literalText(e.AsCall().Args()[0])
	if !ok {
		return time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339, text)
	return at, err == nil
}

// factsOf is what a clause reads.
func (d *dialect) factsOf(e ast.Expr) []fact {
	var r reading
	r.d = d
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		if ref, ok, err := d.fact(e); ok && err == nil {
			r.add(ref)
		}
		if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.In {
			if ref, ok, err := d.membership(e.AsCall().Args()[0], e.AsCall().Args()[1]); ok && err == nil {
				r.add(ref)
			}
		}
	}))
	return r.refs
}
