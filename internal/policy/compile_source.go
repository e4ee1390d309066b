package policy

import (
	"strings"

	"github.com/kith-id/kith/internal/fault"
)

// class is the root of the rules of one tier that a source's peers are under.
func (c *compiler) class(at tier, from string) (uint32, error) {
	t, hash := c.table, c.hash(from)
	if n := c.classes.find(hash, func(n uint32) bool { return t.classes[n-1].tier == at && t.classes[n-1].from == from }); n != 0 {
		return t.classes[n-1].root, nil
	}
	root := t.actions.root()
	number := uint32(len(t.classes))
	t.classes = append(t.classes, class{tier: at, root: root, from: from})
	c.classes.add(hash, number+1)
	return root, c.resolve(from, binding{class: true, number: number, denies: !at.gives()})
}

// list is the number of a list of peers, 0 for the empty one.
func (c *compiler) list(field string, list []string) (uint32, error) {
	if len(list) == 0 {
		return 0, nil
	}
	key := strings.Join(list, "\n")
	if number, ok := c.excepts[key]; ok {
		return number, nil
	}
	c.table.lists++
	number := uint32(c.table.lists)
	c.excepts[key] = number
	for i, s := range list {
		if err := c.resolve(s, binding{number: number}); err != nil {
			return 0, fault.Invalidf("%s: %w", index(field, i), err)
		}
	}
	return number, nil
}

// binding is what a peer that a source matches gets: a class, or freedom from
// the rules of an except list.
type binding struct {
	class  bool
	number uint32
	denies bool
}

// resolve makes the peers that s names get b. A service's name stands for the
// identities it has now.
func (c *compiler) resolve(s string, b binding) error {
	src, err := parseSource(s)
	if err != nil {
		return err
	}
	t, own := c.table, c.from.domain
	switch src.kind {
	case anonymous:
		t.anonymous = append(t.anonymous, b)
	case anyPeer:
		if b.denies {
			t.everyone = append(t.everyone, b)
			return nil
		}
		t.bind(own, []part{{kind: rest}}, b)
	case named:
		ids, ok := c.from.identities(src.text)
		if !ok {
			return fault.Invalidf("unknown service %q", clip(src.text))
		}
		for _, identity := range ids {
			td, path, err := locate(identity, own)
			if err != nil {
				return fault.Invalidf("service %q: %w", clip(src.text), err)
			}
			c.path = appendSegments(c.path[:0], path)
			t.bind(td, c.path, b)
		}
	case identities:
		td := src.td
		if td.IsZero() {
			td = own
		}
		t.bind(td, src.path, b)
	default:
		return fault.Invalidf("source %q is of an unknown kind", clip(s))
	}
	return nil
}
