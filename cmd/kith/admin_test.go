package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// What listens and hangs up at once is not "nothing listens there", and a server,
// which lets callers in by their user alone, is not said to look for their process.
func TestAClosedConnectionIsSaidAsItIs(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	for who, hint := range map[string]string{"agent": "why it refuses this process", "server": "its log says more"} {
		conn, err := dialUnix(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = pb.NewInspectionClient(conn).Status(t.Context(), &pb.AgentStatusRequest{})
		conn.Close()
		err = explain(err, who, path)
		if got := err.Error(); !strings.Contains(got, "the "+who+" on "+path+" closed the connection before it answered") {
			t.Errorf("%s: got %s", who, got)
		}
		if got := fault.HintOf(err); !strings.Contains(got, hint) || !strings.Contains(got, "try again") {
			t.Errorf("%s: the hint is %s", who, got)
		}
	}
}

// What the agent says itself when it has too much to do is not taken for a silence.
func TestWhatASocketSaysIsShown(t *testing.T) {
	t.Parallel()
	busy := "user 1000 has 64 calls under way, which is the limit"
	if got := explain(status.Error(codes.Unavailable, busy), "agent", "/s").Error(); got != "the agent on /s: "+busy {
		t.Errorf("got %s", got)
	}
	conn, err := dialUnix(filepath.Join(t.TempDir(), "nobody"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = pb.NewInspectionClient(conn).Status(t.Context(), &pb.AgentStatusRequest{})
	if got := explain(err, "server", "/s").Error(); got != "no server answers on /s: nothing listens there" {
		t.Errorf("got %s", got)
	}
}
