package agent

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/workload"
)

const (
	openTimeout    = 10 * time.Second // for the first message
	declareTimeout = 10 * time.Second
	maxAddresses   = 256
	maxAddress     = 256
)

// enforcement serves the enforcement points: proxies and programs with the SDK.
type enforcement struct {
	pb.UnimplementedEnforcementServer
	a *Agent
}

type enforceStream = grpc.BidiStreamingServer[pb.EnforceRequest, pb.EnforceResponse]

// Enforce is open for the life of an enforcement point.
func (e *enforcement) Enforce(stream enforceStream) error {
	err := e.enforce(stream)
	if stream.Context().Err() != nil {
		err = stream.Context().Err()
	}
	return api.ToWire(e.a.cfg.Log, "Enforce", err)
}

func (e *enforcement) enforce(stream enforceStream) error {
	a, ctx := e.a, stream.Context()
	peer, err := workload.PeerOf(ctx)
	if err != nil {
		return err
	}
	in := receiveAll(ctx, stream)
	open, err := firstOf(ctx, in)
	if err != nil {
		return err
	}
	attrs, release, err := a.claimAndInspect(ctx, peer, open)
	if err != nil {
		return err
	}
	p := a.points.attach(a.world.Load, peer, attrs, open)
	if open.GetServes() {
		a.savePoints() // before it has anything to decide by
	}
	// The point goes before its claim: no other point must be told of the end of
	// a claim while this one still counts.
	defer func() {
		a.points.detach(p)
		if open.GetServes() {
			a.savePoints()
		}
		release()
		a.outbox.endpointsChanged()
		a.keep.stateChanged()
		a.cfg.Log.Info("enforcement point detached", "pid", peer.PID, "as", open.GetAs())
	}()
	a.cfg.Log.Info("enforcement point attached", "pid", peer.PID, "uid", peer.UID, "as", open.GetAs(),
		"serves", open.GetServes(), "calls", open.GetCalls(), "services", p.services, "version", cut(open.GetVersion(), 64))
	for {
		for out := a.points.outgoing(p, a.catalog.view); out != nil; out = a.points.outgoing(p, a.catalog.view) {
			if err := stream.Send(out); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.wake:
		case m, ok := <-in:
			if !ok {
				return nil
			}
			if err := a.hear(p, m); err != nil {
				return err
			}
		}
	}
}

// receiveAll reads the stream in a goroutine of its own, which ends with the
// stream: no later than the handler's return.
func receiveAll(ctx context.Context, stream enforceStream) <-chan *pb.EnforceRequest {
	in := make(chan *pb.EnforceRequest)
	go func() {
		defer close(in)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case in <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	return in
}

func firstOf(ctx context.Context, in <-chan *pb.EnforceRequest) (*pb.Open, error) {
	timer := time.NewTimer(openTimeout)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		return nil, fault.Invalidf("no Open within %s", openTimeout)
	case m := <-in:
		open := m.GetOpen()
		switch {
		case open == nil:
			return nil, fault.Invalidf("the first message is Open")
		case open.GetSchema() < policy.Schema && open.GetServes():
			return nil, fault.Hint(fault.Invalidf("this program understands policy schema %d, %d is in use", open.GetSchema(), policy.Schema),
				"upgrade the program")
		}
		return open, nil
	}
}

// claimAndInspect settles who the caller is. The claim is recorded first: it is
// part of what the identity rules see.
func (a *Agent) claimAndInspect(ctx context.Context, peer attest.Peer, open *pb.Open) (map[string]string, func(), error) {
	release := func() {}
	if a.world.Load() == nil {
		return nil, nil, errNoState()
	}
	name := open.GetAs()
	if name != "" {
		if err := a.checkClaim(ctx, peer, name); err != nil {
			return nil, nil, err
		}
		end, err := a.claims.add(peer, name)
		if err != nil {
			return nil, nil, err
		}
		a.claimsChanged()
		release = func() { end(); a.claimsChanged() }
	}
	ev, err := a.evaluate(ctx, peer, true)
	if err == nil && len(ev.Matches) == 0 {
		err = errNoIdentity(peer, name, ev)
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return ev.Attributes, release, nil
}

// checkClaim refuses a name that does not exist or that the caller may not use.
func (a *Agent) checkClaim(ctx context.Context, peer attest.Peer, name string) error {
	if err := policy.ValidateName(name); err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	w := a.world.Load()
	_, known := w.policy.Service(name)
	if !known {
		if !w.dev || a.cfg.Declare == nil {
			return errUnknownService(name, w)
		}
		if err := a.declare(ctx, name); err != nil {
			return err
		}
		w = a.world.Load()
	}
	attrs, err := a.inspect(ctx, w, peer, true)
	if err != nil {
		return err
	}
	if a.mayClaim(w, name, peer.UID, attrs) {
		return nil
	}
	user := attrs["workload.unix.user"]
	if user == "" {
		user = strconv.FormatUint(uint64(peer.UID), 10)
	}
	service, _ := w.policy.Service(name)
	err = fault.Deniedf("user %s may not run as %s: the service's run_as is %s", user, name, listOf(service.RunAs))
	return fault.Hint(err, "kith services lists who may; to allow it: run_as: [%s] in the service, then kith apply", user)
}

// declare makes the server know a name that is used for the first time, in kith
// dev, and waits until it has come back here.
func (a *Agent) declare(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, declareTimeout)
	defer cancel()
	if err := a.cfg.Declare(ctx, name); err != nil {
		return fmt.Errorf("declare service %s: %w", name, err)
	}
	for {
		changed := a.changed.wait()
		if _, known := a.world.Load().policy.Service(name); known {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for service %s: %w", name, ctx.Err())
		}
	}
}

// hear takes one message of a point.
func (a *Agent) hear(p *point, m *pb.EnforceRequest) error {
	switch m := m.GetMessage().(type) {
	case *pb.EnforceRequest_Ack:
		if text := m.Ack.GetError(); text != "" {
			a.cfg.Log.Error("policy not enforceable", "pid", p.peer.PID, "revision", m.Ack.GetRevision(), "error", cut(text, 256))
		}
		a.points.ack(p, m.Ack)
	case *pb.EnforceRequest_Register:
		if err := checkAddresses(m.Register.GetAddresses()); err != nil {
			return err
		}
		if err := a.points.announce(p, m.Register); err != nil {
			return err
		}
		a.outbox.endpointsChanged()
		a.keep.stateChanged()
	case *pb.EnforceRequest_MissingKey:
		a.missingKey(p, m.MissingKey)
	case *pb.EnforceRequest_Report:
		a.decisionLog.Lost(m.Report.GetDropped())
		a.report(p, m.Report.GetDecisions())
	case *pb.EnforceRequest_Flows:
		a.count(p, m.Flows)
	default:
		return fault.Invalidf("a second Open on one stream")
	}
	return nil
}

// report keeps decisions. Which enforcement point they are of is for us to say.
func (a *Agent) report(p *point, decisions []*pb.Decision) {
	ids := a.points.idsOf(p)
	node := a.standing.Load().node
	for _, d := range decisions[:min(len(decisions), maxReported)] {
		if d.GetId() == "" {
			continue
		}
		if !slices.Contains(ids, d.GetToId()) {
			d.ToId = ""
			if len(ids) > 0 {
				d.ToId = ids[0]
			}
		}
		d.Node = node
		a.decisionLog.Record(d)
		a.ringOf(d).add(d)
		a.metrics.decision(d.GetEffect())
	}
}

// ringOf is where a decision is kept for `kith why`: allows that only the decision
// log has asked for must not push denials out.
func (a *Agent) ringOf(d *pb.Decision) *ring {
	if d.GetLogged() && d.GetEffect() == "allow" && !d.GetObserved() && d.GetShadowEffect() == "" {
		return &a.logged
	}
	return &a.decisions
}

func checkAddresses(addresses []string) error {
	if len(addresses) > maxAddresses {
		return fault.Invalidf("%d addresses, at most %d can be registered", len(addresses), maxAddresses)
	}
	for _, address := range addresses {
		host, port, err := net.SplitHostPort(address)
		if err != nil || host == "" || len(address) > maxAddress {
			return fault.Invalidf("address %q is not host:port", cut(address, maxAddress))
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fault.Invalidf("address %q has no port to dial", address)
		}
	}
	return nil
}
