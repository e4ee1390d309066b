// Package fault holds the four error kinds every room shares, and hints; it
// knows nothing of gRPC, HTTP or exit codes.
package fault

import (
	"errors"
	"fmt"
)

// Kind says what sort of error it is. The zero Kind is an internal error.
type Kind int

// The four kinds, and Internal for everything else.
const (
	Internal Kind = iota
	NotFound
	Conflict
	Invalid
	Denied
)

// String is the kind's word in logs and on the wire.
func (k Kind) String() string {
	switch k {
	case NotFound:
		return "not_found"
	case Conflict:
		return "conflict"
	case Invalid:
		return "invalid"
	case Denied:
		return "denied"
	default:
		return "internal"
	}
}

type kinded struct {
	error
	kind Kind
}

func (k kinded) Unwrap() error { return k.error }

type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// NotFoundf makes a NotFound error; the format is fmt.Errorf's, %w included.
func NotFoundf(format string, args ...any) error { return Wrap(NotFound, fmt.Errorf(format, args...)) }

// Conflictf makes a Conflict error: the state is not the one the caller assumed.
func Conflictf(format string, args ...any) error { return Wrap(Conflict, fmt.Errorf(format, args...)) }

// Invalidf makes an Invalid error: the input can never be accepted as it is.
func Invalidf(format string, args ...any) error { return Wrap(Invalid, fmt.Errorf(format, args...)) }

// Deniedf makes a Denied error: the caller may not do this.
func Deniedf(format string, args ...any) error { return Wrap(Denied, fmt.Errorf(format, args...)) }

// Wrap gives err a kind. A nil err stays nil.
func Wrap(kind Kind, err error) error {
	if err == nil {
		return nil
	}
	return kinded{err, kind}
}

// Hint adds the next thing to type. A nil err stays nil.
func Hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return hinted{err, fmt.Sprintf(format, args...)}
}

// KindOf is the outermost kind in err's chain, Internal if there is none.
func KindOf(err error) Kind {
	var k kinded
	if errors.As(err, &k) {
		return k.kind
	}
	return Internal
}

// HintOf is the outermost hint in err's chain, or "".
func HintOf(err error) string {
	var h hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}

// Is reports whether err is of the kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }
