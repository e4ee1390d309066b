package registry

import (
	"errors"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"
	"github.com/kith-id/kith/internal/fault"
)

// Bounds of a requirement. The cost limit is CEL's abstract count; a plain
// requirement costs below 20.
const (
	maxRequire      = 4 << 10
	maxRequireDepth = 32
	maxNesting      = 2
	maxRegexProgram = 1000
	requireCost     = 50_000
)

// presentVar is the variable behind present(); "@" keeps it out of reach of
// anything a requirement can spell.
const presentVar = "@present"

// requirement is a compiled condition over attributes. It is immutable and
// safe for concurrent use.
type requirement struct {
	program    cel.Program
	attributes []string // named outside present(), sorted
	optional   []string // named inside present() only, sorted
}

// dialect is CEL as requirements speak it, for one schema.
type dialect struct {
	schema definitions
	env    *cel.Env
}

// standardDialect is made once: it is costly and never changes.
var standardDialect = sync.OnceValues(func() (*dialect, error) { return newDialect(schema) })

// newDialect declares each attribute as a flat, typed variable, and of CEL's
// library only what cannot loosen the types (no dyn, no conversions, no has).
func newDialect(schema definitions) (*dialect, error) {
	subset := env.NewLibrarySubset().AddIncludedMacros("exists", "all")
	for _, name := range []string{
		operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot, operators.Conditional,
		operators.Equals, operators.NotEquals, operators.In, operators.NotStrictlyFalse,
		operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals,
		overloads.Contains, overloads.StartsWith, overloads.EndsWith, overloads.Matches, overloads.Size,
	} {
		subset.AddIncludedFunctions(&env.Function{Name: name})
	}
	// Of [] only that of maps: a list has no order that means anything.
	subset.AddIncludedFunctions(&env.Function{Name: operators.Index, Overloads: []*env.Overload{{ID: overloads.IndexMap}}})
	d := &dialect{schema: schema}
	options := []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(subset)),
		cel.Macros(cel.GlobalMacro("present", 1, d.expandPresent)),
		cel.Variable(presentVar, cel.MapType(cel.StringType, cel.BoolType)),
		cel.ParserExpressionSizeLimit(maxRequire),
		cel.ParserRecursionLimit(maxRequireDepth),
		cel.ASTValidators(
			cel.ValidateRegexLiterals(),
			cel.ValidateRegexProgramSizeLimit(maxRegexProgram),
			cel.ValidateHomogeneousAggregateLiterals(),
			cel.ValidateComprehensionNestingLimit(maxNesting),
		),
	}
	for _, def := range schema {
		options = append(options, cel.Variable(def.Name, def.Type.cel()))
	}
	var err error
	if d.env, err = cel.NewCustomEnv(options...); err != nil {
		return nil, err
	}
	return d, nil
}

func (t Type) cel() *cel.Type {
	switch t {
	case TypeInt:
		return cel.IntType
	case TypeBool:
		return cel.BoolType
	case TypeList:
		return cel.ListType(cel.StringType)
	case TypeMap:
		return cel.MapType(cel.StringType, cel.StringType)
	default:
		return cel.StringType
	}
}

// expandPresent turns present(workload.systemd.unit) into a test of the name,
// so that the attribute does not count as named.
func (d *dialect) expandPresent(eh cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *cel.Error) {
	name := selectorName(args[0])
	if name == "" {
		return nil, eh.NewError(args[0].ID(), "present() takes an attribute's name")
	}
	if _, ok := d.schema.find(name); !ok {
		return nil, eh.NewError(args[0].ID(), d.schema.unknown(name).Error())
	}
	return eh.NewCall(operators.In, eh.NewLiteral(types.String(name)), eh.NewIdent(presentVar)), nil
}

// selectorName is the dotted name an expression spells, or "".
func selectorName(e ast.Expr) string {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent()
	case ast.SelectKind:
		if e.AsSelect().IsTestOnly() {
			return ""
		}
		if operand := selectorName(e.AsSelect().Operand()); operand != "" {
			return operand + "." + e.AsSelect().FieldName()
		}
	}
	return ""
}

// compile type-checks a requirement. The empty text is no requirement: nil.
func (d *dialect) compile(text string) (*requirement, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	if len(text) > maxRequire {
		return nil, fault.Invalidf("requirement of %d bytes; at most %d", len(text), maxRequire)
	}
	parsed, issues := d.env.Parse(text)
	if issues.Err() != nil {
		return nil, issueError(issues)
	}
	if err := d.checkNames(parsed.NativeRep()); err != nil {
		return nil, err
	}
	checked, issues := d.env.Check(parsed)
	if issues.Err() != nil {
		return nil, issueError(issues)
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, fault.Invalidf("requirement has type %s; want bool, such as a comparison", checked.OutputType())
	}
	program, err := d.env.Program(checked, cel.CostLimit(requireCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, fault.Invalidf("requirement: %w", err)
	}
	r := &requirement{program: program}
	r.attributes, r.optional = d.names(checked.NativeRep())
	return r, nil
}

// issueError is the first problem CEL found, in one line with its column.
func issueError(issues *cel.Issues) error {
	if found := issues.Errors(); len(found) > 0 {
		first := found[0]
		message, _, _ := strings.Cut(first.Message, "\n")
		return fault.Invalidf("requirement, column %d: %s", first.Location.Column()+1, message)
	}
	return fault.Invalidf("requirement: %w", issues.Err())
}

// checkNames refuses names outside the schema before the type checker sees
// them, because it knows no nearest name, and iteration variables that would
// hide an attribute.
func (d *dialect) checkNames(parsed *ast.AST) error {
	var faults []error
	var walk func(e ast.NavigableExpr, bound []string)
	walk = func(e ast.NavigableExpr, bound []string) {
		switch e.Kind() {
		case ast.ComprehensionKind:
			c := e.AsComprehension()
			if v := c.IterVar(); v == "node" || v == "workload" {
				faults = append(faults, fault.Invalidf("variable %q would hide the attributes; name it otherwise", v))
			}
			bound = append(slices.Clone(bound), c.IterVar(), c.IterVar2(), c.AccuVar())
		case ast.IdentKind, ast.SelectKind:
			name := selectorName(e)
			root, _, _ := strings.Cut(strings.TrimPrefix(name, "."), ".")
			if name != "" && name != presentVar && !slices.Contains(bound, root) {
				if _, ok := d.schema.find(strings.TrimPrefix(name, ".")); !ok {
					faults = append(faults, d.schema.unknown(name))
				}
				return
			}
		}
		for _, child := range e.Children() {
			walk(child, bound)
		}
	}
	walk(ast.NavigateAST(parsed), nil)
	return errors.Join(faults...)
}

// names is what a checked requirement names outside and inside present().
func (d *dialect) names(checked *ast.AST) (required, optional []string) {
	for _, ref := range checked.ReferenceMap() {
		if _, ok := d.schema.find(ref.Name); ok {
			required = append(required, ref.Name)
		}
	}
	slices.Sort(required)
	required = slices.Compact(required)
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operators.In {
			return
		}
		args := e.AsCall().Args()
		if len(args) == 2 && args[1].Kind() == ast.IdentKind && args[1].AsIdent() == presentVar {
			if name, ok := args[0].AsLiteral().Value().(string); ok && !slices.Contains(required, name) {
				optional = append(optional, name)
			}
		}
	}))
	slices.Sort(optional)
	return required, slices.Compact(optional)
}

// holds evaluates the requirement. The caller has made sure that every
// attribute it names is there.
func (r *requirement) holds(attrs Attributes) (bool, error) {
	if r == nil {
		return true, nil
	}
	value, _, err := r.program.Eval(activation{attrs})
	if err != nil {
		return false, err
	}
	return value == types.True, nil
}

// activation gives a requirement its typed variables.
type activation struct{ attrs Attributes }

// ResolveName implements interpreter.Activation.
func (a activation) ResolveName(name string) (any, bool) {
	if name == presentVar {
		there := make(map[string]bool, len(a.attrs))
		for name, value := range a.attrs {
			if value != "" {
				there[name] = true
			}
		}
		return there, true
	}
	text := a.attrs[name]
	d, ok := schema.find(name)
	if !ok || text == "" {
		return nil, false
	}
	value, err := d.Type.parse(text)
	return value, err == nil
}

// Parent implements interpreter.Activation.
func (a activation) Parent() interpreter.Activation { return nil }
