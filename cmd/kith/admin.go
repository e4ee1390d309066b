package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// callLimit bounds one question to a socket on this host.
const callLimit = 15 * time.Second

// maxReply bounds what a socket on this host may answer; a list of 100 000
// objects stays below it.
const maxReply = 64 << 20

// dialUnix opens a gRPC connection to a socket of this host. Whoever owns the
// socket's directory is trusted: the kernel says who may enter it.
func dialUnix(path string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)))
}

// withAdmin asks the server something: that of this host over its admin socket,
// or the one that --server names.
func (a *app) withAdmin(ctx context.Context, ask func(context.Context, pb.AdminClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return a.streamAdmin(ctx, ask)
}

// streamAdmin is withAdmin without a limit in time.
func (a *app) streamAdmin(ctx context.Context, ask func(context.Context, pb.AdminClient) error) error {
	return a.streamServer(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		return ask(ctx, pb.NewAdminClient(conn))
	})
}

// streamServer connects to the server, for a call of any of its services. With
// --server it asks there.
func (a *app) streamServer(ctx context.Context, ask func(context.Context, grpc.ClientConnInterface) error) error {
	if a.far.address != "" {
		return a.streamFar(ctx, ask)
	}
	path := a.paths.AdminSocket
	if err := present(path); err != nil {
		return fault.Hint(fmt.Errorf("no server answers on %s: %w", path, err),
			"kith dev (to try it here), or kith server; kith doctor says what is missing")
	}
	conn, err := dialUnix(path)
	if err != nil {
		return err
	}
	defer conn.Close()
	return explain(ask(ctx, conn), "server", path)
}

// withAgent asks the agent of this node something over its socket.
func (a *app) withAgent(ctx context.Context, ask func(context.Context, pb.InspectionClient) error) error {
	path := a.paths.AgentSocket
	if err := present(path); err != nil {
		return noAgent(path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	conn, err := dialUnix(path)
	if err != nil {
		return err
	}
	defer conn.Close()
	return explain(ask(ctx, pb.NewInspectionClient(conn)), "agent", path)
}

// present says whether there is a socket that we may open and that nobody else
// put there, before gRPC hides the reason in its own words.
func present(path string) error {
	_, err := os.Stat(path)
	if err == nil {
		err = config.CheckOwners(path, os.Geteuid())
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("there is no such socket")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("you may not enter its directory")
	}
	return err
}

// noAgent is the error of every verb that needs the agent of this node.
func noAgent(path string, err error) error {
	if strings.Contains(path, "://") { // that there is no such file is not the point
		return fault.Hint(fault.Invalidf("agent socket: %w", config.CheckSocketPath(path)), "as in SPIFFE_ENDPOINT_SOCKET=unix:///run/kith/agent.sock")
	}
	return fault.Hint(fmt.Errorf("no agent answers on %s: %w", path, err),
		"kith dev (to try it here), or kith join <line> and kith agent")
}

// explain turns what came over a socket into an error for people.
func explain(err error, who, path string) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch s.Code() {
	case codes.Unavailable:
		return explainAway(s.Message(), who, path)
	case codes.DeadlineExceeded:
		return fault.Hint(fmt.Errorf("the %s on %s did not answer in time", who, path), "kith doctor")
	case codes.Canceled:
		return context.Canceled
	case codes.Unimplemented:
		return fault.Hint(fmt.Errorf("the %s on %s does not know this question", who, path),
			"kith version; it may be of another version than this kith")
	}
	return api.FromWire(err)
}

// explainAway says why a socket gave no answer. What became of a connection gRPC
// tells by its text alone; a text with none of these words is the other end's own.
func explainAway(text, who, path string) error {
	switch {
	case strings.Contains(text, syscall.EACCES.Error()):
		shut := fault.Deniedf("%s: you may not open the %s's socket", path, who)
		return fault.Hint(shut, "run it as the user of kith %s, as in: sudo kith …", who)
	case strings.Contains(text, "while dialing"):
		gone := fmt.Errorf("no %s answers on %s: nothing listens there", who, path)
		return fault.Hint(gone, "kith dev (to try it here), or kith %s; kith doctor says what is missing", who)
	case !regexp.MustCompile(`connection|transport|unix|EOF`).MatchString(text):
		return fault.Hint(fmt.Errorf("the %s on %s: %s", who, path, text), "try again")
	}
	shut := fmt.Errorf("the %s on %s closed the connection before it answered", who, path)
	if who == "agent" { // which has to see who calls
		return fault.Hint(shut, "try again, as it may be ending; else its log says why it refuses this process (caller refused)")
	}
	return fault.Hint(shut, "try again, as it may be ending; else its log says more")
}
