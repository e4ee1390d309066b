package policy

import (
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// op is one step of a clause in one of the shapes that most conditions have. They
// are values, not closures, and read by one function: so a decision keeps its
// request on the stack and costs tens of nanoseconds.
type op struct {
	kind        opKind
	compare     comparison
	ref         fact
	left, right int // and, or, choice; not and all that ask of each entry have left only
	other       int // of a choice: where left fails
	text        string
	texts       []string
	number      int64
	numbers     []int64
	nets        []network
	moment      time.Time
	clock       clock
	zone        time.Duration // east of UTC
	always      bool
	pattern     *regexp.Regexp
	part        opKind // opPrefix, opSuffix or opContains, of two texts
	a, b        *term
}

type opKind uint8

const (
	opAlways   opKind = iota + 1
	opAnd             // left, right
	opOr              // left, right
	opNot             // left
	opEquals          // text
	opOneOf           // texts
	opPrefix          // text
	opSuffix          // text
	opContains        // text
	opHas             // a list has text
	opHasWord         // likewise, one word; the list may be given as one text
	opNumber          // compare number
	opNumberOf        // numbers
	opFlag            // a flag is true
	opPresent         // ref can be read
	opWithin          // an address is in one of nets
	opMoment          // compare moment
	opClock           // compare number with a part of the time
	opClockOf         // that part is one of numbers
	opSegment         // entry number of a list is one of texts
	opMatches         // pattern
	opSize            // compare number with how many there are
	opChoice          // left ? right : other
	opExists          // left holds of an entry of a list, or of texts
	opAll             // of each
	opTexts           // compare a with b; or part
	opNumbers         // compare a with b
	opAmong           // a is one of texts
	opLike            // a matches pattern
	opIn              // a list has a
)

type comparison uint8

const (
	equal comparison = iota
	notEqual
	less
	lessOrEqual
	greater
	greaterOrEqual
)

// admits says whether c holds of a pair whose order is sign, as of cmp.Compare.
func (c comparison) admits(sign int) bool {
	switch c {
	case equal:
		return sign == 0
	case notEqual:
		return sign != 0
	case less:
		return sign < 0
	case lessOrEqual:
		return sign <= 0
	case greater:
		return sign > 0
	default:
		return sign >= 0
	}
}

// clock is a part of a time, numbered as CEL does.
type clock uint8

const (
	clockYear clock = iota + 1
	clockMonth
	clockDayOfYear
	clockDayOfMonth
	clockDate
	clockDayOfWeek
	clockHours
	clockMinutes
	clockSeconds
)

func (c clock) of(t time.Time) int64 {
	switch c {
	case clockYear:
		return int64(t.Year())
	case clockMonth:
		return int64(t.Month()) - 1
	case clockDayOfYear:
		return int64(t.YearDay()) - 1
	case clockDayOfMonth:
		return int64(t.Day()) - 1
	case clockDate:
		return int64(t.Day())
	case clockDayOfWeek:
		return int64(t.Weekday())
	case clockHours:
		return int64(t.Hour())
	case clockMinutes:
		return int64(t.Minute())
	default:
		return int64(t.Second())
	}
}

func answer(yes, known bool) outcome {
	switch {
	case !known:
		return unknown
	case yes:
		return holds
	default:
		return fails
	}
}

// evalOp is the outcome of the step at i, of the entry that exists() or all() are
// at.
func (c *clause) evalOp(i int, in *input, entry string) outcome {
	o := &c.ops[i]
	switch o.kind {
	case opAnd, opOr:
		decisive := fails
		if o.kind == opOr {
			decisive = holds
		}
		left := c.evalOp(o.left, in, entry)
		if left == decisive {
			return left
		}
		right := c.evalOp(o.right, in, entry)
		if right == decisive || left == holds || left == fails {
			return right
		}
		return left
	case opNot:
		switch c.evalOp(o.left, in, entry) {
		case holds:
			return fails
		case fails:
			return holds
		default:
			return unknown
		}
	case opAlways:
		return answer(o.always, true)
	case opPresent:
		return answer(in.present(&o.ref))
	case opChoice:
		switch c.evalOp(o.left, in, entry) {
		case holds:
			return c.evalOp(o.right, in, entry)
		case fails:
			return c.evalOp(o.other, in, entry)
		default:
			return unknown
		}
	case opExists, opAll:
		return c.quantified(o, in)
	case opTexts, opNumbers, opAmong, opLike, opIn:
		return o.terms(in, entry)
	}
	return o.leaf(in)
}

// isLeaf says whether a step is no part of others and has none: leaf is its outcome.
func (o *op) isLeaf() bool {
	switch o.kind {
	case opAlways, opAnd, opOr, opNot, opPresent, opChoice, opExists, opAll, opTexts, opNumbers, opAmong, opLike, opIn:
		return false
	default:
		return true
	}
}

// leaf is the outcome of a step that compares one value.
func (o *op) leaf(in *input) outcome {
	switch o.kind {
	case opEquals:
		text, known := in.text(&o.ref)
		return answer((text == o.text) == (o.compare == equal), known)
	case opHasWord:
		if text, ok := in.claim(o.ref.claim).(string); ok && len(text) < 2*maxClaims {
			return answer(hasWord(text, o.text), true)
		}
	}
	switch o.ref.kind {
	case kindText:
		text, known := in.text(&o.ref)
		if o.kind == opSize {
			return answer(known && o.counts(int64(utf8.RuneCountInString(text))), known)
		}
		return answer(known && o.matches(text), known)
	case kindNumber:
		n, known := in.number(&o.ref)
		return answer(o.counts(n), known)
	case kindFlag:
		return answer(in.flag(&o.ref))
	case kindAddress:
		address, known := in.address()
		return answer(slices.ContainsFunc(o.nets, func(n network) bool { return n.contains(address) }), known)
	case kindMoment:
		now, known := in.moment()
		if o.kind == opMoment {
			return answer(o.compare.admits(now.Compare(o.moment)), known)
		}
		return answer(o.counts(o.clock.of(now.Add(o.zone))), known)
	case kindList:
		return o.lists(in)
	default:
		return unknown
	}
}

func (o *op) matches(text string) bool {
	switch o.kind {
	case opOneOf:
		return slices.Contains(o.texts, text)
	case opPrefix:
		return strings.HasPrefix(text, o.text)
	case opSuffix:
		return strings.HasSuffix(text, o.text)
	case opContains:
		return strings.Contains(text, o.text)
	case opMatches:
		return o.pattern.MatchString(strings.Clone(text)) // a copy, as it keeps what it looks at
	default:
		return false
	}
}

func (o *op) counts(n int64) bool {
	if o.kind == opNumberOf || o.kind == opClockOf {
		return slices.Contains(o.numbers, n)
	}
	switch {
	case n < o.number:
		return o.compare.admits(-1)
	case n > o.number:
		return o.compare.admits(1)
	default:
		return o.compare.admits(0)
	}
}

// lists answers about a list: whether it has a text, or what its entry at a
// number is. There is no entry beyond its end.
func (o *op) lists(in *input) outcome {
	switch {
	case o.kind == opSize:
		n := int64(0)
		known := in.list(&o.ref, func(string) bool {
			n++
			return false
		})
		return answer(o.counts(n), known)
	case o.kind == opSegment:
		entry, known := in.entryAt(&o.ref, o.number)
		return answer(slices.Contains(o.texts, entry) == (o.compare == equal), known)
	}
	found := false // opHas, opHasWord
	known := in.list(&o.ref, func(s string) bool {
		found = s == o.text
		return found
	})
	return answer(found, known)
}

// segment is one segment of the caller's path; false if there is none, or more than
// anybody looks through.
func (in *input) segment(number int64) (string, bool) {
	if p := in.peer.r; uint64(number) < uint64(len(p.cuts)) && p.cuts[number] != 0 {
		begin := 1
		if number > 0 {
			begin = int(p.cuts[number-1]) + 1
		}
		return p.id.Path()[begin:p.cuts[number]], true
	}
	path, known := in.segments()
	if !known || strings.Count(path, "/") >= maxClaims {
		return "", false
	}
	return cutSegment(path, number)
}

// cutSegment is one segment of a path without its first slash.
func cutSegment(path string, number int64) (segment string, there bool) {
	if path == "" {
		return "", false
	}
	for ; number > 0; number-- {
		slash := strings.IndexByte(path, '/')
		if slash < 0 {
			return "", false
		}
		path = path[slash+1:]
	}
	if slash := strings.IndexByte(path, '/'); slash >= 0 {
		path = path[:slash]
	}
	return path, true
}

// hasWord says whether text has a word, with space around it, as strings.Fields
// cuts them. The word itself is not empty and has no space.
func hasWord(text, word string) bool {
	for from := 0; ; {
		i := strings.IndexByte(text[from:], word[0])
		if i < 0 {
			return false
		}
		i, from = i+from, i+from+1
		end := i + len(word)
		if end > len(text) {
			return false
		}
		if text[i:end] != word {
			continue
		}
		begins, ends := i == 0 || isSpace(text[i-1]), end == len(text) || isSpace(text[end])
		if begins && ends {
			return true
		}
		if !begins && text[i-1] >= utf8.RuneSelf || !ends && text[end] >= utf8.RuneSelf { // there are other spaces, which are rare
			return slices.Contains(strings.Fields(strings.Clone(text)), word)
		}
	}
}

func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }
