package policy

import (
	"strconv"
	"strings"

	"github.com/kith-id/kith/internal/fault"
)

// faults gathers everything wrong with a set, each with its path.
type faults struct{ list []error }

// add reports err at path, keeping its hint.
func (f *faults) add(path string, err error) { f.list = append(f.list, at(path, err)) }

// at is err with the path of what it is about, and its hint.
func at(path string, err error) error {
	located := fault.Invalidf("%s: %w", path, err)
	if hint := fault.HintOf(err); hint != "" {
		return fault.Hint(located, "%s", hint)
	}
	return located
}

func (f *faults) bound(path string, n, limit int) {
	if n > limit {
		f.add(path, fault.Invalidf("%d entries, at most %d are allowed", n, limit))
	}
}

func (f *faults) owner(path, owner string) {
	if len(owner) > maxOwner {
		f.add(path+".owner", fault.Invalidf("longer than %d bytes", maxOwner))
	}
}

// err is nil, the one fault, or all of them as one Invalid error.
func (f *faults) err() error {
	switch len(f.list) {
	case 0:
		return nil
	case 1:
		return f.list[0]
	default:
		return fault.Wrap(fault.Invalid, several(f.list))
	}
}

// several is many faults in one error: a line each, with its hint.
type several []error

// Error is one line per fault.
func (s several) Error() string {
	var b strings.Builder
	for i, err := range s {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(err.Error())
		if hint := fault.HintOf(err); hint != "" {
			b.WriteString(" (" + hint + ")")
		}
	}
	return b.String()
}

// Unwrap gives the faults to errors.Is and errors.As.
func (s several) Unwrap() []error { return s }

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
