package kith

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
)

type enforceStream = grpc.BidiStreamingClient[pb.EnforceRequest, pb.EnforceResponse]

// attach keeps the Enforce stream open until ctx ends. The claim of Open holds
// while it is open, so the identity is fetched inside of it.
func (w *Workload) attach(ctx context.Context) {
	pause := newBackoff()
	level := slog.LevelWarn // once for each absence
	for ctx.Err() == nil {
		err := w.enforce(ctx, func() {
			if pause.reset(); level != slog.LevelWarn {
				level = slog.LevelWarn
				w.cfg.Log.Info("agent back", "socket", w.socket)
			}
		})
		if ctx.Err() != nil {
			return
		}
		w.first.fail(agentError("attach to the agent", err))
		w.cfg.Log.Log(ctx, level, "agent away", "socket", w.socket, "error", err)
		level = slog.LevelDebug
		pause.wait(ctx)
	}
}

// enforce is one life of the stream: open, first slice, then both directions
// and the identity until the stream breaks.
func (w *Workload) enforce(ctx context.Context, progress func()) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()

	stream, err := pb.NewEnforcementClient(w.conn).Enforce(ctx)
	if err != nil {
		return err
	}
	open := &pb.Open{As: w.cfg.As, Serves: w.cfg.Serves, Calls: w.cfg.Calls, Version: w.cfg.Version, Schema: policy.Schema}
	if err := stream.Send(&pb.EnforceRequest{Message: &pb.EnforceRequest_Open{Open: open}}); err != nil {
		return streamError(stream, err)
	}
	acks := make(chan *pb.PolicyAck, 1)
	for attached := false; ; {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		progress()
		switch m := message.GetMessage().(type) {
		case *pb.EnforceResponse_Slice:
			putLatest(acks, w.rule(m.Slice))
			if !attached {
				attached = true
				running.Go(func() { w.follow(ctx) })
				running.Go(func() { w.send(ctx, cancel, stream, acks) })
			}
		case *pb.EnforceResponse_Keys:
			w.learn(m.Keys)
		case *pb.EnforceResponse_Directory:
			w.chart(m.Directory)
		}
	}
}

// putLatest leaves only the newest ack in a channel of one: acking a revision
// acks all before it.
func putLatest(acks chan *pb.PolicyAck, ack *pb.PolicyAck) {
	select {
	case <-acks:
	default:
	}
	acks <- ack // there is room: this goroutine is the only writer
}

// send is the only goroutine that sends after Open: acks first, then addresses,
// then reports. A failed send breaks the stream for the receiving side as well.
func (w *Workload) send(ctx context.Context, cancel func(), stream enforceStream, acks <-chan *pb.PolicyAck) {
	defer cancel()
	registered := false
	counted := time.After(flowPause) // what an earlier stream could not tell
	if len(*w.addresses.Load()) > 0 {
		w.nudge()
	}
	for {
		var message *pb.EnforceRequest
		select {
		case <-ctx.Done():
			return
		case ack := <-acks:
			message = &pb.EnforceRequest{Message: &pb.EnforceRequest_Ack{Ack: ack}}
		default:
			select {
			case <-ctx.Done():
				return
			case ack := <-acks:
				message = &pb.EnforceRequest{Message: &pb.EnforceRequest_Ack{Ack: ack}}
			case <-w.advertised:
				addresses := *w.addresses.Load()
				if len(addresses) == 0 && !registered {
					continue
				}
				registered = true
				message = &pb.EnforceRequest{Message: &pb.EnforceRequest_Register{
					Register: &pb.Register{Addresses: addresses, Service: w.Service()},
				}}
			case missing := <-w.missing:
				message = &pb.EnforceRequest{Message: &pb.EnforceRequest_MissingKey{MissingKey: missing}}
			case <-w.flows.changed:
				counted = time.After(flowPause)
				continue
			case <-counted:
				if err := w.sendFlows(stream); err != nil {
					return
				}
				continue
			case first := <-w.reports.queue:
				message = &pb.EnforceRequest{Message: &pb.EnforceRequest_Report{Report: w.reports.batch(first)}}
			}
		}
		if err := stream.Send(message); err != nil {
			return
		}
	}
}

func (w *Workload) nudge() {
	select {
	case w.advertised <- struct{}{}:
	default:
	}
}

// streamError turns the io.EOF of a failed Send into the status behind it.
func streamError(stream enforceStream, err error) error {
	if _, cause := stream.Recv(); cause != nil {
		return cause
	}
	return err
}

// agentError gives an error of the agent its kind and hint back. Internal is
// what may heal by itself: an agent away, or one that awaits its server.
func agentError(doing string, err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("%s: %w", doing, err)
	}
	kind, hint := "", ""
	for _, detail := range s.Details() {
		if fields, ok := detail.(*structpb.Struct); ok {
			kind, hint = fields.GetFields()["kind"].GetStringValue(), fields.GetFields()["hint"].GetStringValue()
		}
	}
	out := fmt.Errorf("%s: %s", doing, s.Message())
	switch s.Code() {
	case codes.PermissionDenied, codes.Unauthenticated:
		out = fault.Wrap(fault.Denied, out)
	case codes.NotFound:
		out = fault.Wrap(fault.NotFound, out)
	case codes.InvalidArgument, codes.Unimplemented:
		out = fault.Wrap(fault.Invalid, out)
	case codes.FailedPrecondition, codes.AlreadyExists:
		if kind != agentAwaitsServer {
			out = fault.Wrap(fault.Conflict, out)
		}
	}
	if hint == "" {
		return out
	}
	return fault.Hint(out, "%s", hint)
}

// agentAwaitsServer is the kind the agent gives errors that end when its server
// answers.
const agentAwaitsServer = "away"

// firsts is what Open waits for. A refusal by the agent ends the wait; what may
// heal by itself does not.
type firsts struct {
	gotIdentity, gotPolicy, gotDirectory chan struct{}

	onceIdentity, oncePolicy, onceDirectory sync.Once

	refused   chan error // the first refusal
	last      atomic.Pointer[error]
	rotations atomic.Uint64
}

func (f *firsts) init() {
	f.gotIdentity, f.gotPolicy, f.gotDirectory = make(chan struct{}), make(chan struct{}), make(chan struct{})
	f.refused = make(chan error, 1)
}

func (f *firsts) identity() { f.onceIdentity.Do(func() { close(f.gotIdentity) }) }

func (f *firsts) policy() { f.oncePolicy.Do(func() { close(f.gotPolicy) }) }

func (f *firsts) directory() { f.onceDirectory.Do(func() { close(f.gotDirectory) }) }

func (f *firsts) fail(err error) {
	f.last.Store(&err)
	if fault.KindOf(err) == fault.Internal {
		return
	}
	select {
	case f.refused <- err:
	default:
	}
}

func (w *Workload) awaitFirst(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Wait)
	defer cancel()
	absent := time.NewTimer(absentAgent)
	defer absent.Stop()
	for identity, policy := w.first.gotIdentity, w.first.gotPolicy; identity != nil || policy != nil; {
		select {
		case <-identity:
			identity = nil
		case <-policy:
			policy = nil
		case err := <-w.first.refused:
			return err
		case <-absent.C:
			if err := agentAnswers(w.socket); err != nil {
				return err
			}
		case <-ctx.Done():
			return w.tooLate(ctx.Err())
		}
	}
	if !w.cfg.Calls {
		return nil
	}
	catalog := time.NewTimer(firstCatalog)
	defer catalog.Stop()
	select {
	case <-w.first.gotDirectory:
	case <-catalog.C: // it may come later; until then names are unknown
	case <-ctx.Done():
	}
	return nil
}

func (w *Workload) tooLate(err error) error {
	if last := w.first.last.Load(); last != nil {
		err = errors.Join(err, *last)
	}
	return fault.Hint(fmt.Errorf("no identity from the agent at %s: %w", w.socket, err), "kith doctor")
}

// pauses doubles from 20 ms to 1 s, with jitter, and starts again after progress.
type pauses struct{ next time.Duration }

const (
	shortestPause = 20 * time.Millisecond
	longestPause  = time.Second
)

func newBackoff() *pauses { return &pauses{next: shortestPause} }

func (p *pauses) reset() { p.next = shortestPause }

func (p *pauses) wait(ctx context.Context) {
	pause := p.next/2 + rand.N(p.next/2)
	p.next = min(2*p.next, longestPause)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
