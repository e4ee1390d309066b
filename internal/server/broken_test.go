package server_test

import (
	"errors"
	"syscall"
	"testing"

	"github.com/kith-id/kith/internal/server"
)

// brokenLog is an audit log whose disk has failed.
type brokenLog struct{ records }

func (*brokenLog) Broken() error { return syscall.EIO }

func TestBrokenAuditLogEndsTheServer(t *testing.T) {
	r := newRig(t, func(c *server.Config) { c.Audit = &brokenLog{} })
	s, err := server.New(t.Context(), r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); !errors.Is(err, syscall.EIO) {
		t.Errorf("Run ended with %v, want EIO", err)
	}
}
