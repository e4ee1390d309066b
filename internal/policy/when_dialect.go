package policy

import (
	"fmt"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"

	"github.com/kith-id/kith/internal/fault"
)

// Bounds of a condition. The cost is CEL's count of steps at worst, estimated when
// a rule is loaded, so that no request pays for counting.
const (
	maxWhenDepth    = 32
	maxWhenNesting  = 1
	maxWhenCost     = 500_000
	maxRegexProgram = 500
	maxClaimDepth   = 8
	maxWriting      = 16 // times: how much longer and deeper CEL may write what it has read
)

// Names that conditions cannot spell: what present() and jwt.text() turn into.
const (
	presentName = "@present"
	claimDict   = "@jwt_"
)

// dictionaries are the variables that are read one named entry at a time.
func dictionaries() map[string]*cel.Type {
	return map[string]*cel.Type{
		"request.headers": cel.StringType, "request.query": cel.StringType, presentName: cel.BoolType,
		claimDict + "text": cel.StringType, claimDict + "number": cel.IntType, claimDict + "flag": cel.BoolType, claimDict + "list": cel.ListType(cel.StringType),
	}
}

// variables are the facts that have a name of their own.
func variables() map[string]fact {
	all := map[string]fact{
		"request.method":     {on: onMethod, kind: kindText},
		"request.path":       {on: onPath, kind: kindText},
		"request.host":       {on: onHost, kind: kindText},
		"request.port":       {on: onPort, kind: kindNumber},
		"request.sni":        {on: onSNI, kind: kindText},
		"request.source_ip":  {on: onSource, kind: kindAddress},
		"request.time":       {on: onTime, kind: kindMoment},
		"peer.id":            {on: onPeerID, kind: kindText},
		"peer.trust_domain":  {on: onTrustDomain, kind: kindText},
		"peer.path":          {on: onPeerPath, kind: kindList},
		"jwt.scope":          {on: onClaim, kind: kindList, name: spaced},
		"jwt.email_verified": {on: onClaim, kind: kindFlag},
	}
	for _, name := range []string{"iss", "sub", "azp", "client_id", "email"} {
		all["jwt."+name] = fact{on: onClaim, kind: kindText}
	}
	for _, name := range []string{"aud", "groups", "roles", "entitlements", "amr"} {
		all["jwt."+name] = fact{on: onClaim, kind: kindList}
	}
	for name, ref := range all {
		ref.spelt = name
		if claim, ok := strings.CutPrefix(name, "jwt."); ok {
			ref.claim = []string{claim}
		}
		all[name] = ref
	}
	return all
}

// dialect is CEL as conditions speak it. It is immutable, but for what it keeps to
// be used again.
type dialect struct {
	env       *cel.Env
	written   *cel.Env // for clauses of a condition that was read, as CEL writes them
	variables map[string]fact
	names     []string // all that can be spelt, sorted
	dicts     map[string]*cel.Type

	activations sync.Pool
}

// standardDialect is made once: it is costly and never changes.
var standardDialect = sync.OnceValues(newDialect)

// newDialect declares each variable flat and typed, and of CEL's library only
// what cannot loosen the types (no dyn, no conversions, no has).
func newDialect() (*dialect, error) {
	d := &dialect{variables: variables(), dicts: dictionaries()}
	options := []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(whenLibrary())),
		cel.Macros(cel.GlobalMacro("present", 1, d.expandPresent)),
		cel.EnableMacroCallTracking(),
		cel.ParserExpressionSizeLimit(maxWhen),
		cel.ParserRecursionLimit(maxWhenDepth),
		cel.ASTValidators(
			cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateHomogeneousAggregateLiterals(),
			cel.ValidateRegexProgramSizeLimit(maxRegexProgram), cel.ValidateComprehensionNestingLimit(maxWhenNesting),
		),
		cel.Function("within",
			cel.MemberOverload("address_within_text", []*cel.Type{addressType, cel.StringType}, cel.BoolType, cel.BinaryBinding(within)),
			cel.MemberOverload("address_within_list", []*cel.Type{addressType, cel.ListType(cel.StringType)}, cel.BoolType, cel.BinaryBinding(within)),
		),
	}
	for _, name := range []string{"text", "number", "flag", "list"} {
		options = append(options, cel.Macros(cel.ReceiverVarArgMacro(name, expandClaim(name))))
	}
	for name, ref := range d.variables {
		options = append(options, cel.Variable(name, ref.kind.cel()))
		d.names = append(d.names, name)
	}
	for name, of := range d.dicts {
		options = append(options, cel.Variable(name, cel.MapType(cel.StringType, of)))
	}
	d.names = append(d.names, "request.headers", "request.query")
	slices.Sort(d.names)
	var err error
	if d.env, err = cel.NewCustomEnv(options...); err != nil {
		return nil, err
	}
	d.written, err = d.env.Extend(cel.ParserExpressionSizeLimit(maxWriting*maxWhen), cel.ParserRecursionLimit(maxWriting*maxWhenDepth))
	return d, err
}

// whenLibrary is what of CEL's library conditions may use.
func whenLibrary() *env.LibrarySubset {
	subset := env.NewLibrarySubset().AddIncludedMacros("exists", "all")
	for _, name := range []string{
		operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot, operators.Conditional,
		operators.Equals, operators.NotEquals, operators.In, operators.Index, operators.NotStrictlyFalse,
		operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals,
		overloads.Contains, overloads.StartsWith, overloads.EndsWith, overloads.Matches, overloads.Size,
		overloads.TimeGetFullYear, overloads.TimeGetMonth, overloads.TimeGetDayOfYear, overloads.TimeGetDate, overloads.TimeGetDayOfMonth,
		overloads.TimeGetDayOfWeek, overloads.TimeGetHours, overloads.TimeGetMinutes, overloads.TimeGetSeconds,
	} {
		subset.AddIncludedFunctions(&env.Function{Name: name})
	}
	return subset.AddIncludedFunctions(&env.Function{
		Name: overloads.TypeConvertTimestamp, Overloads: []*env.Overload{{ID: overloads.StringToTimestamp}},
	})
}

func (k valueKind) cel() *cel.Type {
	switch k {
	case kindNumber:
		return cel.IntType
	case kindFlag:
		return cel.BoolType
	case kindList:
		return cel.ListType(cel.StringType)
	case kindMoment:
		return cel.TimestampType
	case kindAddress:
		return addressType
	default:
		return cel.StringType
	}
}

// expandPresent turns present(x) into a test of x's key in a set of its own.
func (d *dialect) expandPresent(eh cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *cel.Error) {
	ref, ok, err := d.fact(args[0])
	switch {
	case err != nil:
		return nil, eh.NewError(args[0].ID(), err.Error())
	case !ok:
		return nil, eh.NewError(args[0].ID(), `present() takes one thing a condition can read, as in present(request.headers["x-env"])`)
	}
	return eh.NewCall(operators.In, eh.NewLiteral(types.String(ref.key())), eh.NewIdent(presentName)), nil
}

// expandClaim turns jwt.text("realm", "role") into an entry of a dictionary.
func expandClaim(kind string) cel.MacroFactory {
	return func(eh cel.MacroExprFactory, target ast.Expr, args []ast.Expr) (ast.Expr, *cel.Error) {
		if target.Kind() != ast.IdentKind || target.AsIdent() != "jwt" {
			return nil, nil
		}
		if len(args) == 0 || len(args) > maxClaimDepth {
			return nil, eh.NewError(target.ID(), fmt.Sprintf(`want the names that lead to a claim, as in jwt.%s("realm_access", "role")`, kind))
		}
		path := make([]string, 0, len(args))
		for _, a := range args {
			name, ok := literalText(a)
			if !ok || name == "" || strings.IndexByte(name, 0) >= 0 {
				return nil, eh.NewError(a.ID(), "a claim's name is text in quotes")
			}
			path = append(path, name)
		}
		return eh.NewCall(operators.Index, eh.NewIdent(claimDict+kind), eh.NewLiteral(types.String(strings.Join(path, "\x00")))), nil
	}
}

// literalText is the text of a literal.
func literalText(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	text, ok := e.AsLiteral().Value().(string)
	return text, ok
}

// selectorName is the dotted name an expression spells, or "".
func selectorName(e ast.Expr) string {
	switch e.Kind() {
	case ast.IdentKind:
		return strings.TrimPrefix(e.AsIdent(), ".")
	case ast.SelectKind:
		if s := e.AsSelect(); !s.IsTestOnly() {
			if operand := selectorName(s.Operand()); operand != "" {
				return operand + "." + s.FieldName()
			}
		}
	}
	return ""
}

// fact is what an expression reads, if it reads one thing. A header or a
// parameter whose name could never be found is an error.
func (d *dialect) fact(e ast.Expr) (fact, bool, error) {
	if name := selectorName(e); name != "" {
		ref, ok := d.variables[name]
		return ref, ok, nil
	}
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operators.Index {
		return fact{}, false, nil
	}
	args := e.AsCall().Args()
	name, literal := literalText(args[1])
	dict := selectorName(args[0])
	if _, ok := d.dicts[dict]; !ok || !literal {
		return fact{}, false, nil
	}
	ref, err := entryOf(dict, name)
	return ref, err == nil, err
}

var headerName = regexp.MustCompile(`^[!#$%&'*+.^_|~0-9a-z-]{1,64}$`)

// entryOf is the fact behind one entry of a dictionary.
func entryOf(dict, name string) (fact, error) {
	spelt := dict + "[" + strconv.Quote(name) + "]"
	switch dict {
	case "request.headers":
		switch {
		case name == "host":
			return fact{}, fault.Invalidf("say request.host")
		case strings.ToLower(name) != name:
			return fact{}, fault.Invalidf("header names are lower-case: %q", strings.ToLower(name))
		case !headerName.MatchString(name):
			return fact{}, fault.Invalidf("%q is no header name", clip(name))
		}
		return fact{on: onHeader, kind: kindText, name: textproto.CanonicalMIMEHeaderKey(name), spelt: spelt}, nil
	case "request.query":
		if name == "" || len(name) > 256 {
			return fact{}, fault.Invalidf("%q is no parameter's name", clip(name))
		}
		return fact{on: onQuery, kind: kindText, name: name, spelt: spelt}, nil
	}
	kinds := map[string]valueKind{claimDict + "text": kindText, claimDict + "number": kindNumber, claimDict + "flag": kindFlag, claimDict + "list": kindList}
	kind, ok := kinds[dict]
	if !ok {
		return fact{}, fault.Invalidf("nothing can be read from %s", dict)
	}
	path := strings.Split(name, "\x00")
	quoted := make([]string, 0, len(path))
	for _, p := range path {
		quoted = append(quoted, strconv.Quote(p))
	}
	spelt = "jwt." + strings.TrimPrefix(dict, claimDict) + "(" + strings.Join(quoted, ", ") + ")"
	return fact{on: onClaim, kind: kind, claim: path, spelt: spelt}, nil
}

// key names a fact in the set behind present().
func (ref *fact) key() string {
	switch {
	case ref.on == onHeader:
		return "request.headers\x00" + strings.ToLower(ref.name)
	case ref.on == onQuery:
		return "request.query\x00" + ref.name
	case strings.HasSuffix(ref.spelt, ")"):
		kind, _, _ := strings.Cut(strings.TrimPrefix(ref.spelt, "jwt."), "(")
		return claimDict + kind + "\x00" + strings.Join(ref.claim, "\x00")
	default:
		return ref.spelt
	}
}

// byKey is the fact of a key.
func (d *dialect) byKey(key string) (fact, bool) {
	dict, name, named := strings.Cut(key, "\x00")
	if !named {
		ref, ok := d.variables[key]
		return ref, ok
	}
	ref, err := entryOf(dict, name)
	return ref, err == nil
}
