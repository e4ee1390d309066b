package policy

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// term is one side of a comparison: a text or a number.
type term struct {
	kind   termKind
	ref    fact
	text   string
	number int64 // written, or which entry of a list
	clock  clock
	zone   time.Duration // east of UTC
}

type termKind uint8

const (
	termText    termKind = iota + 1 // written
	termNumber                      // written
	termFact                        // read
	termSegment                     // an entry of a list
	termSize                        // how many there are
	termClock                       // a part of the time
	termEntry                       // what exists() or all() are at
)

// is the type of a term: kindText or kindNumber.
func (t *term) is() valueKind {
	switch t.kind {
	case termText, termSegment, termEntry:
		return kindText
	case termFact:
		return t.ref.kind
	default:
		return kindNumber
	}
}

// textOf is what a term of text is; false if it is unknown. Entry is what exists()
// or all() are at: handed down, for what is kept in in would be kept on the heap.
func (t *term) textOf(in *input, entry string) (string, bool) {
	switch t.kind {
	case termText:
		return t.text, true
	case termEntry:
		return entry, true
	case termSegment:
		return in.entryAt(&t.ref, t.number)
	default:
		return in.text(&t.ref)
	}
}

// numberOf is what a term of a number is; false if it is unknown.
func (t *term) numberOf(in *input) (int64, bool) {
	switch t.kind {
	case termNumber:
		return t.number, true
	case termSize:
		return in.size(&t.ref)
	case termClock:
		now, known := in.moment()
		return t.clock.of(now.Add(t.zone)), known
	default:
		return in.number(&t.ref)
	}
}

// size is how many characters a text has, or entries a list.
func (in *input) size(ref *fact) (int64, bool) {
	if ref.kind == kindText {
		text, known := in.text(ref)
		return int64(utf8.RuneCountInString(text)), known
	}
	n := int64(0)
	known := in.list(ref, func(string) bool {
		n++
		return false
	})
	return n, known
}

// entryAt is one entry of a list; none is beyond its end.
func (in *input) entryAt(ref *fact, number int64) (string, bool) {
	if ref.on == onPeerPath {
		return in.segment(number)
	}
	at, there, found := int64(0), false, ""
	known := in.list(ref, func(s string) bool {
		if there = at == number; there {
			found = s
		}
		at++
		return there
	})
	return found, known && there
}

// terms is the outcome of a step about terms.
func (o *op) terms(in *input, entry string) outcome {
	if o.kind == opNumbers {
		left, known := o.a.numberOf(in)
		right, too := o.b.numberOf(in)
		return answer(o.compare.admits(order(left, right)), known && too)
	}
	text, known := o.a.textOf(in, entry)
	switch o.kind {
	case opAmong:
		return answer(slices.Contains(o.texts, text), known)
	case opLike:
		return answer(o.pattern.MatchString(strings.Clone(text)), known) // a copy, as it keeps what it looks at
	case opIn:
		found := false
		too := in.list(&o.ref, func(s string) bool {
			found = s == text
			return found
		})
		return answer(found, known && too)
	}
	other, too := o.b.textOf(in, entry)
	return answer(known && too && o.relates(text, other), known && too)
}

// relates says whether two texts are as a step wants them.
func (o *op) relates(text, other string) bool {
	switch o.part {
	case opPrefix:
		return strings.HasPrefix(text, other)
	case opSuffix:
		return strings.HasSuffix(text, other)
	case opContains:
		return strings.Contains(text, other)
	}
	if o.compare <= notEqual {
		return (text == other) == (o.compare == equal)
	}
	return o.compare.admits(order(text, other))
}

// order is that of cmp.Compare: strings.Compare would keep what it looks at on the
// heap.
func order[T int64 | string](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

// quantified is exists() or all(): an or, or an and, of what is asked of each entry.
func (c *clause) quantified(o *op, in *input) outcome {
	decisive, result := holds, fails
	if o.kind == opAll {
		decisive, result = fails, holds
	}
	ask := func(entry string) bool {
		switch got := c.evalOp(o.left, in, entry); got {
		case decisive:
			result = got
		case unknown:
			result = unknown
		}
		return result == decisive
	}
	if o.texts != nil {
		for _, entry := range o.texts {
			if ask(entry) {
				break
			}
		}
		return result
	}
	if !in.list(&o.ref, ask) {
		return unknown
	}
	return result
}
