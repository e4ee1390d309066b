package api

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/kith-id/kith/internal/fault"
)

// Away says that a part the request needs cannot be reached now; trying again
// later may work.
type Away struct{ Err error }

// Error is the text of what is away.
func (a Away) Error() string { return a.Err.Error() }

// Unwrap is the cause.
func (a Away) Unwrap() error { return a.Err }

// Unproven says that the connection brings no usable node certificate: the
// node has to attest first.
type Unproven struct{ Err error }

// Error is the text of what is missing.
func (u Unproven) Error() string { return u.Err.Error() }

// Unwrap is the cause.
func (u Unproven) Unwrap() error { return u.Err }

const (
	kindAway     = "away"
	kindUnproven = "unproven"
)

// ToWire translates a domain error to what goes over the wire: the text, and
// kind and hint as a detail. Internal errors keep their text out of it: the
// log has it, under the id that the caller sees.
func ToWire(log *slog.Logger, method string, err error) error {
	if err == nil {
		return nil
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	code, kind := codeOf(err)
	text := err.Error()
	if code == codes.Internal {
		id := rand.Text()[:12]
		log.Error("request failed", "method", method, "id", id, "error", err)
		text = "internal error " + id
	}
	return withDetail(status.New(code, text), kind, fault.HintOf(err)).Err()
}

func codeOf(err error) (codes.Code, string) {
	var away Away
	var unproven Unproven
	switch {
	case errors.As(err, &away):
		// Not Unavailable: that is what gRPC says when nobody answers at all.
		return codes.FailedPrecondition, kindAway
	case errors.As(err, &unproven):
		return codes.Unauthenticated, kindUnproven
	}
	kind := fault.KindOf(err)
	switch kind {
	case fault.NotFound:
		return codes.NotFound, kind.String()
	case fault.Conflict:
		return codes.FailedPrecondition, kind.String()
	case fault.Invalid:
		return codes.InvalidArgument, kind.String()
	case fault.Denied:
		return codes.PermissionDenied, kind.String()
	}
	switch {
	case errors.Is(err, context.Canceled):
		return codes.Canceled, kind.String()
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded, kind.String()
	}
	return codes.Internal, kind.String()
}

func withDetail(s *status.Status, kind, hint string) *status.Status {
	detail, err := structpb.NewStruct(map[string]any{"kind": kind, "hint": hint})
	if err != nil { // a hint that is not UTF-8; the text alone goes out then
		return s
	}
	full, err := s.WithDetails(detail)
	if err != nil {
		return s
	}
	return full
}

// FromWire translates an error of a gRPC call back to the domain error it was,
// with kind and hint. An error that did not come from one of our faces has the
// kind that its code implies; a server that does not answer is Away.
func FromWire(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	kind, hint := detailOf(s)
	out := errors.New(s.Message())
	switch {
	case kind == kindAway || s.Code() == codes.Unavailable:
		out = Away{out}
	case s.Code() == codes.Unauthenticated:
		out = Unproven{out}
	case s.Code() == codes.Canceled:
		out = errors.Join(context.Canceled, out)
	case s.Code() == codes.DeadlineExceeded:
		out = errors.Join(context.DeadlineExceeded, out)
	default:
		out = fault.Wrap(kindOf(s.Code()), out)
	}
	if hint != "" {
		out = fault.Hint(out, "%s", hint)
	}
	return out
}

func kindOf(code codes.Code) fault.Kind {
	switch code {
	case codes.NotFound:
		return fault.NotFound
	case codes.FailedPrecondition, codes.AlreadyExists, codes.Aborted:
		return fault.Conflict
	case codes.InvalidArgument, codes.OutOfRange, codes.ResourceExhausted:
		return fault.Invalid
	case codes.PermissionDenied:
		return fault.Denied
	default:
		return fault.Internal
	}
}

// KindName is the word for err's kind as it stands in SignedWorkload.
func KindName(err error) string {
	_, kind := codeOf(err)
	return kind
}

func detailOf(s *status.Status) (kind, hint string) {
	for _, d := range s.Details() {
		if fields, ok := d.(*structpb.Struct); ok {
			return fields.GetFields()["kind"].GetStringValue(), fields.GetFields()["hint"].GetStringValue()
		}
	}
	return "", ""
}
