package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/fault"
)

func TestErrorsKeepKindAndHintOverTheWire(t *testing.T) {
	for code, err := range map[codes.Code]error{
		codes.NotFound:           fault.NotFoundf("no service orders"),
		codes.FailedPrecondition: fault.Conflictf("rule r exists"),
		codes.InvalidArgument:    fault.Invalidf("ttl: too long"),
		codes.PermissionDenied:   fault.Deniedf("node n1 is banned"),
	} {
		sent := ToWire(slog.New(slog.DiscardHandler), "test", fault.Hint(fmt.Errorf("apply: %w", err), "kith %s", "nodes list"))
		if status.Code(sent) != code {
			t.Errorf("%v: got code %s, want %s", err, status.Code(sent), code)
		}
		got := FromWire(sent)
		if fault.KindOf(got) != fault.KindOf(err) || fault.HintOf(got) != "kith nodes list" || got.Error() != "apply: "+err.Error() {
			t.Errorf("%v: came back as %v (%s, hint %q)", err, got, fault.KindOf(got), fault.HintOf(got))
		}
	}
}

func TestAwayAndUnprovenComeBack(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	var gone Away
	if err := FromWire(ToWire(log, "test", fault.Hint(Away{errors.New("the store is away")}, "kith status"))); !errors.As(err, &gone) || fault.HintOf(err) != "kith status" {
		t.Errorf("away came back as %v", err)
	}
	var unproven Unproven
	if err := FromWire(ToWire(log, "test", Unproven{errors.New("no certificate")})); !errors.As(err, &unproven) {
		t.Errorf("unproven came back as %v", err)
	}
	if err := FromWire(status.Error(codes.Unavailable, "connection refused")); !errors.As(err, &gone) {
		t.Errorf("an unreachable server came back as %v, want Away", err)
	}
	if err := FromWire(ToWire(log, "test", context.DeadlineExceeded)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a deadline came back as %v", err)
	}
}

func TestInternalErrorsStayInTheLog(t *testing.T) {
	var log bytes.Buffer
	err := ToWire(slog.New(slog.NewTextHandler(&log, nil)), "Apply", errors.New("secret path /var/lib/kith"))
	text := status.Convert(err).Message()
	id, ok := strings.CutPrefix(text, "internal error ")
	if !ok || strings.Contains(text, "secret") {
		t.Errorf("sent %q, want an id and nothing else", text)
	}
	if !strings.Contains(log.String(), id) || !strings.Contains(log.String(), "secret path") {
		t.Errorf("log has %q, want the id and the text", log.String())
	}
}
