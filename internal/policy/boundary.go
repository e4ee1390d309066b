package policy

import "strings"

// boundary is a rule outside of which no allow counts.
type boundary struct {
	rule   string
	except uint32 // its except list, 0 for none
	root   uint32 // of its actions
	class  uint32
	shadow bool
}

// bound is how a boundary binds one peer.
type bound uint8

const (
	boundOut  bound = iota // the boundary does not name the peer: all it does is outside
	boundIn                // the peer may do what the boundary says
	boundFree              // an except list frees the peer
)

// boundary enters a rule that is one: a class of its own for all its sources.
func (c *compiler) boundary(r *Rule, n numbered) error {
	t := c.table
	b := boundary{rule: r.Name, except: n.except, root: t.actions.root(), class: uint32(len(t.classes)), shadow: r.Mode == Shadow}
	t.classes = append(t.classes, class{tier: tierBoundary, root: b.root, from: strings.Join(r.From, ",")})
	for i, from := range r.From {
		if err := c.resolve(from, binding{class: true, number: b.class}); err != nil {
			return at(index(".from", i), err)
		}
	}
	t.boundaries = append(t.boundaries, b)
	t.shadows = t.shadows || b.shadow
	return c.enter(r, n, ".boundary", tierBoundary, r.Boundary)
}

// enter notes that the peer is one a boundary names.
func (p *resolved) enter(t *Table, root uint32) {
	if p.bounds == nil {
		p.bounds = make([]bound, len(t.boundaries))
	}
	for i, b := range t.boundaries {
		if b.root == root {
			p.bounds[i] = boundIn
		}
	}
}

// release frees the peer of the boundaries whose except lists name it.
func (p *resolved) release(t *Table) {
	if len(t.boundaries) > 0 && p.bounds == nil {
		p.bounds = make([]bound, len(t.boundaries))
	}
	for i, b := range t.boundaries {
		if b.except != 0 && p.excused(b.except) {
			p.bounds[i] = boundFree
		}
	}
}

// outside is the first boundary, of those enforced or of those in shadow mode,
// that does not hold what q asks; -1 if there is none. One whose condition cannot
// be evaluated holds nothing.
func (t *Table) outside(q *query, shadow bool) int {
	for i := range t.boundaries {
		b := &t.boundaries[i]
		if b.shadow != shadow {
			continue
		}
		switch q.in.peer.r.bounds[i] {
		case boundFree:
		case boundIn:
			if !t.matches(q, b.root, tierBoundary) {
				return i
			}
		default:
			return i
		}
	}
	return -1
}
