package server_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/server"
)

// brokenLog is an audit log whose disk has failed.
type brokenLog struct{ records }

func (*brokenLog) Broken() error { return syscall.EIO }

func TestBrokenAuditLogEndsTheServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *server.Config) { c.Audit = &brokenLog{} })
	s, err := server.New(t.Context(), r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); !errors.Is(err, syscall.EIO) {
		t.Errorf("Run ended with %v, want EIO", err)
	}
}

// fullLog is an audit log without space.
type fullLog struct{ records }

func (*fullLog) Record(context.Context, audit.Event) error {
	return fmt.Errorf("audit log /srv/secret/path: %w", syscall.ENOSPC)
}

// Bar 5: a change that cannot be recorded is refused, with the reason and without
// what is nobody's business.
func TestFullAuditLogIsNamed(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *server.Config) { c.Audit = &fullLog{} })
	_, err := r.admin.Apply(t.Context(), &pb.ApplyRequest{Put: shop()})
	err = api.FromWire(err)
	var away api.Away
	if !errors.As(err, &away) || !strings.Contains(err.Error(), "nothing was changed") || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("a change with a full disk: %v; want a refusal that names the disk", err)
	}
	if strings.Contains(fmt.Sprint(err, fault.HintOf(err)), "secret") {
		t.Errorf("the refusal names a path: %v", err)
	}
	line, err := r.admin.AddNode(t.Context(), &pb.AddNodeRequest{Name: "n1", Class: "vms"})
	if err = api.FromWire(err); !errors.As(err, &away) {
		t.Errorf("a join token with a full disk: %v, %v", line, err)
	}
}
