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

	"github.com/kith-id/kith/spiffe"
)

// interpreted is a clause that CEL's interpreter evaluates, with what it reads.
type interpreted struct {
	program cel.Program
	reads   []entryFact
	d       *dialect
}

// entryFact is a fact under the name a program asks for it by, looked up when the
// condition was compiled: that takes longer than most conditions.
type entryFact struct {
	fact
	at   string // fact.key()
	dict string // of an entry of a dictionary
	name string
}

func (d *dialect) interpret(text string, refs []fact) (*interpreted, error) {
	program, err := d.program(text)
	if err != nil {
		return nil, err
	}
	p := &interpreted{program: program, d: d}
	for _, ref := range refs {
		e := entryFact{fact: ref, at: ref.key()}
		e.dict, e.name, _ = strings.Cut(e.at, "\x00")
		p.reads = append(p.reads, e)
	}
	return p, nil
}

// eval is the outcome of the clause. It copies the request, so that those that need
// no interpreter stay on the stack.
func (p *interpreted) eval(in *input) outcome {
	if p == nil {
		return unknown
	}
	a, ok := p.d.activations.Get().(*activation)
	if !ok {
		var err error
		if a, err = newActivation(); err != nil {
			return unknown
		}
	}
	a.fill(p, in)
	value, _, err := p.program.Eval(a.frame)
	a.clear()
	p.d.activations.Put(a)
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

// activation gives a program its variables. One is used for many requests, one
// after the other.
type activation struct {
	frame    *interpreter.ExecutionFrame // that evaluates with it: nothing of a request stays in it
	of       *interpreted
	in       input
	request  Request
	facts    Facts
	peer     Peer
	resolved resolved
	dicts    [len(dictionaryNames)]dictionary
	entries  []string // of the lists that were read
}

// dictionaryNames are the keys of dictionaries, in the order of activation.dicts.
var dictionaryNames = [...]string{"request.headers", "request.query", presentName, claimDict + "text", claimDict + "number", claimDict + "flag", claimDict + "list"}

func newActivation() (*activation, error) {
	a := &activation{}
	var err error
	a.frame, err = interpreter.NewExecutionFrame(a)
	a.in.r, a.in.peer, a.peer.r = &a.request, &a.peer, &a.resolved
	for i, name := range dictionaryNames {
		a.dicts[i] = dictionary{a, name}
	}
	return a, err
}

// fill copies what the program may read. Texts are copied too: what is kept here
// would else be kept on the heap by every caller of Decide.
func (a *activation) fill(p *interpreted, in *input) {
	a.of = p
	a.in.forwarder, a.in.hops = in.forwarder, in.hops
	a.resolved.id, a.resolved.anonymous, a.resolved.excepted = in.peer.r.id, in.peer.r.anonymous, in.peer.r.excepted
	a.request.Protocol, a.request.Port, a.request.GRPC = in.r.Protocol, in.r.Port, in.r.GRPC
	for i := range p.reads {
		switch p.reads[i].on {
		case onMethod:
			a.request.Method = ownMethod(in.r.Method)
		case onPath:
			a.request.Path = strings.Clone(in.r.Path)
		case onHost:
			a.request.Host = strings.Clone(in.r.Host)
		}
	}
	if in.r.Facts != nil {
		a.facts = *in.r.Facts
		a.request.Facts = &a.facts
	}
}

// clear lets go of a request.
func (a *activation) clear() {
	a.of, a.request, a.facts = nil, Request{}, Facts{}
	a.resolved.id, a.resolved.excepted = spiffe.ID{}, nil
	clear(a.entries)
	a.entries = a.entries[:0]
}

// ownMethod is a copy, for the methods there are without copying.
func ownMethod(m string) string {
	for _, known := range [...]string{"GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE"} {
		if m == known {
			return known
		}
	}
	return strings.Clone(m)
}

// ResolveName implements interpreter.Activation.
func (a *activation) ResolveName(name string) (any, bool) {
	for i := range a.of.reads {
		if r := &a.of.reads[i]; r.at == name {
			return a.value(&r.fact)
		}
	}
	for i := range a.dicts {
		if a.dicts[i].name == name {
			return &a.dicts[i], true
		}
	}
	return nil, false
}

// Parent implements interpreter.Activation.
func (a *activation) Parent() interpreter.Activation { return nil }

// value is what a fact is, in CEL's types.
func (a *activation) value(r *fact) (any, bool) {
	in := &a.in
	switch r.kind {
	case kindNumber:
		n, ok := in.number(r)
		return types.Int(n), ok
	case kindFlag:
		flag, ok := in.flag(r)
		return types.Bool(flag), ok
	case kindList:
		from := len(a.entries)
		ok := in.list(r, func(s string) bool {
			a.entries = append(a.entries, s)
			return false
		})
		return types.NewStringList(types.DefaultTypeAdapter, a.entries[from:len(a.entries):len(a.entries)]), ok
	case kindMoment:
		now, ok := in.moment()
		return types.Timestamp{Time: now}, ok
	case kindAddress:
		ip, ok := in.address()
		return address{ip}, ok
	default:
		text, ok := in.text(r)
		if r.on == onMethod { // constants need no memory
			switch text {
			case "GET":
				return types.String("GET"), ok
			case "POST":
				return types.String("POST"), ok
			}
		}
		return types.String(text), ok
	}
}

// dictionary is a variable whose entries are read when they are asked for.
type dictionary struct {
	a    *activation
	name string
}

var _ traits.Mapper = (*dictionary)(nil)

// isUnknown is what a fact that cannot be read is to a program. The near miss says
// which one it was.
var isUnknown = types.NewErrWithNodeID(1, "unknown") // with an ID, so that no program writes its own to it

// entry is the fact that a key names, nil if there is none: a program asks for
// nothing that was not found in its text.
func (d *dictionary) entry(key string) *fact {
	for i := range d.a.of.reads {
		r := &d.a.of.reads[i]
		if r.dict == d.name && r.name == key || r.at == key && d.name == presentName {
			return &r.fact
		}
	}
	return nil
}

func (d *dictionary) read(key ref.Val) (ref.Val, bool) {
	text, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	r := d.entry(string(text))
	if r == nil {
		return types.NewErr("nothing is called %s", text), false
	}
	value, ok := d.a.value(r)
	if !ok {
		return isUnknown, false
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
	r := d.entry(string(text))
	if r == nil {
		return types.NewErr("nothing is called %s", text)
	}
	there, known := d.a.in.present(r)
	if !known {
		return isUnknown
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
