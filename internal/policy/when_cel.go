package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// evalProgram is the outcome of a clause that CEL's interpreter evaluates. It
// copies the request, so that those that need no interpreter stay on the stack.
func evalProgram(program cel.Program, in *input) outcome {
	if program == nil {
		return unknown
	}
	value, _, err := program.Eval(newActivation(in))
	switch {
	case err != nil:
		return unknown
	case value == types.True:
		return holds
	case value == types.False:
		return fails
	default:
		return unknown
	}
}

// activation gives a program its variables.
type activation struct {
	in       input
	request  Request
	facts    Facts
	peer     Peer
	resolved resolved
	dialect  *dialect
	dicts    [len(dictionaryNames)]dictionary
}

// dictionaryNames are the keys of dictionaries, in the order of activation.dicts.
var dictionaryNames = [...]string{"request.headers", "request.query", presentName, claimDict + "text", claimDict + "number", claimDict + "flag", claimDict + "list"}

func newActivation(in *input) *activation {
	a := &activation{resolved: *in.peer.r, in: input{forwarder: in.forwarder, hops: in.hops}}
	// Copies of the text too: what is kept here would else be kept on the heap by
	// every caller of Decide.
	a.request = Request{
		Protocol: in.r.Protocol, Method: strings.Clone(in.r.Method), Path: strings.Clone(in.r.Path),
		Host: strings.Clone(in.r.Host), Port: in.r.Port, GRPC: in.r.GRPC,
	}
	if in.r.Facts != nil {
		a.facts = *in.r.Facts
		a.request.Facts = &a.facts
	}
	a.peer.r = &a.resolved
	a.in.r, a.in.peer = &a.request, &a.peer
	a.dialect, _ = standardDialect() // the program was compiled with it
	return a
}

// ResolveName implements interpreter.Activation.
func (a *activation) ResolveName(name string) (any, bool) {
	if r, ok := a.dialect.variables[name]; ok {
		return a.in.value(&r)
	}
	for i, dict := range dictionaryNames {
		if dict == name {
			a.dicts[i] = dictionary{a, name}
			return &a.dicts[i], true
		}
	}
	return nil, false
}

// Parent implements interpreter.Activation.
func (a *activation) Parent() interpreter.Activation { return nil }

// value is what a fact is, in CEL's types.
func (in *input) value(r *fact) (any, bool) {
	switch r.kind {
	case kindNumber:
		n, ok := in.number(r)
		return types.Int(n), ok
	case kindFlag:
		flag, ok := in.flag(r)
		return types.Bool(flag), ok
	case kindList:
		entries := []string{}
		ok := in.list(r, func(s string) bool {
			entries = append(entries, s)
			return len(entries) == maxClaims
		})
		return types.NewStringList(types.DefaultTypeAdapter, entries), ok
	case kindMoment:
		now, ok := in.moment()
		return types.Timestamp{Time: now}, ok
	case kindAddress:
		ip, ok := in.address()
		return address{ip}, ok
	default:
		text, ok := in.text(r)
		return types.String(text), ok
	}
}

// dictionary is a variable whose entries are read when they are asked for.
type dictionary struct {
	a    *activation
	name string
}

var _ traits.Mapper = (*dictionary)(nil)

func (d *dictionary) read(key ref.Val) (ref.Val, bool) {
	text, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	r, err := entryOf(d.name, string(text))
	if err != nil {
		return types.WrapErr(err), false
	}
	value, ok := d.a.in.value(&r)
	if !ok {
		return types.NewErr("%s is unknown", r.spelt), false
	}
	return value.(ref.Val), true
}

// Find is the entry of a key.
func (d *dictionary) Find(key ref.Val) (ref.Val, bool) { return d.read(key) }

// Get is the entry of a key, or an error.
func (d *dictionary) Get(key ref.Val) ref.Val {
	value, _ := d.read(key)
	return value
}

// Contains says whether an entry can be read; an error if what is there cannot.
func (d *dictionary) Contains(key ref.Val) ref.Val {
	text, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key)
	}
	var r fact
	if d.name == presentName {
		r, ok = d.a.dialect.byKey(string(text))
	} else {
		var err error
		r, err = entryOf(d.name, string(text))
		ok = err == nil
	}
	if !ok {
		return types.NewErr("nothing is called %s", text)
	}
	there, known := d.a.in.present(&r)
	if !known {
		return types.NewErr("%s is unknown", r.spelt)
	}
	return types.Bool(there)
}

// Iterator refuses: dictionaries are read one entry at a time.
func (d *dictionary) Iterator() traits.Iterator { return nil }

// Size refuses, as Iterator does.
func (d *dictionary) Size() ref.Val { return types.NewErr("%s has no size", d.name) }

// ConvertToNative refuses.
func (d *dictionary) ConvertToNative(to reflect.Type) (any, error) {
	return nil, fmt.Errorf("no conversion of %s to %v", d.name, to)
}

// ConvertToType refuses.
func (d *dictionary) ConvertToType(ref.Type) ref.Val {
	return types.NewErr("no conversion of %s", d.name)
}

// Equal is never true: what is not all read cannot be compared.
func (d *dictionary) Equal(ref.Val) ref.Val { return types.False }

// Type is that of a map.
func (d *dictionary) Type() ref.Type { return types.MapType }

// Value is the dictionary itself.
func (d *dictionary) Value() any { return d }

// addressType is an IP address, which compares with networks only: as text it
// would have several spellings.
var addressType = cel.OpaqueType("address")

type address struct{ netip.Addr }

// ConvertToNative refuses.
func (a address) ConvertToNative(to reflect.Type) (any, error) {
	return nil, fmt.Errorf("no conversion of an address to %v", to)
}

// ConvertToType refuses.
func (a address) ConvertToType(ref.Type) ref.Val { return types.NewErr("no conversion of an address") }

// Equal compares two addresses.
func (a address) Equal(other ref.Val) ref.Val {
	b, ok := other.(address)
	return types.Bool(ok && a.Addr == b.Addr)
}

// Type is addressType.
func (a address) Type() ref.Type { return addressType }

// Value is the address.
func (a address) Value() any { return a.Addr }

// within says whether an address is in a network, or in one of a list.
func within(of, nets ref.Val) ref.Val {
	ip, ok := of.(address)
	if !ok {
		return types.MaybeNoSuchOverloadErr(of)
	}
	texts := []string{}
	switch v := nets.(type) {
	case types.String:
		texts = append(texts, string(v))
	case traits.Lister:
		for it := v.Iterator(); it.HasNext() == types.True; {
			text, ok := it.Next().(types.String)
			if !ok {
				return types.MaybeNoSuchOverloadErr(nets)
			}
			texts = append(texts, string(text))
		}
	}
	for _, text := range texts {
		if net, err := parseNetwork(text); err == nil && net.Contains(ip.Addr) {
			return types.True
		}
	}
	return types.False
}
