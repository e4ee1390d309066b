package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/run"
)

const (
	// eager is for how long a lost server is looked for about every second.
	eager = 10 * time.Minute
	// skewWarning is the difference of clocks that is worth a warning.
	skewWarning = time.Minute
	// clockLook is how often a node whose SVID has ended looks at the clock again.
	clockLook = time.Second
	// seenEvery is how often the server hears which identities are in use.
	seenEvery = time.Minute
	// maxEndpoints is what the server keeps of one node.
	maxEndpoints = 4096
)

type syncStream = grpc.BidiStreamingClient[pb.SyncRequest, pb.SyncResponse]

// follow keeps the sync stream to the server open until ctx ends.
func (a *Agent) follow(ctx context.Context) error {
	var pause run.Backoff
	var said string
	lost := a.cfg.Now()
	restart := func() {
		pause = run.Backoff{Min: 50 * time.Millisecond, Max: time.Second}
		lost, said = a.cfg.Now(), ""
	}
	restart()
	for {
		err := a.sync(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil { // it waited for a new node SVID
			continue
		}
		worked := a.contact.lost(err)
		if worked {
			// Servers end streams of old certificates; mostly the next one is up
			// before anybody notices.
			restart()
			a.cfg.Log.Info("server stream ended", "server", a.up.address, "error", err)
		} else if text := err.Error(); text != said {
			said = text
			a.cfg.Log.Warn("server away", "server", a.up.address, "error", err, "hint", fault.HintOf(err))
		}
		a.judge(err, worked)
		if fault.Is(err, fault.Conflict) { // another agent has our name: do not race it
			pause = run.Backoff{Min: 4 * time.Second, Max: 30 * time.Second}
		}
		if a.cfg.Now().Sub(lost) > eager {
			pause.Max = max(pause.Max, 5*time.Second)
		}
		if pause.Wait(ctx) != nil {
			return nil
		}
	}
}

// judge looks at what the end of a stream says about this node. A stream that
// worked and then ended for its certificate is opened again with the newer one.
func (a *Agent) judge(err error, worked bool) {
	var unproven api.Unproven
	switch {
	case errors.As(err, &unproven):
		if !worked {
			poke(a.unproven)
		}
	case fault.Is(err, fault.Denied):
		// The server that we authenticated says that this node may not serve.
		if !a.banned.Load() {
			a.cfg.Log.Error("node refused by the server", "server", a.up.address, "error", err, "hint", fault.HintOf(err))
		}
		a.setBanned(true)
	}
}

// sync is one life of the stream.
func (a *Agent) sync(ctx context.Context) error {
	if at := a.standing.Load(); at.expired(a.cfg.Now()) {
		return a.awaitStanding(ctx, at)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.up.ResetConnectBackoff()
	stream, err := pb.NewNodeClient(a.up).Sync(ctx)
	if err != nil {
		return a.up.explain(err, a.cfg.Now())
	}
	hello := &pb.SyncHello{Version: a.cfg.Version, Interest: a.interest.hello()}
	if w := a.world.Load(); w != nil {
		hello.Revision, hello.Epoch, hello.Mark = w.revision, w.epoch, w.mark
	}
	if err := stream.Send(&pb.SyncRequest{Message: &pb.SyncRequest_Hello{Hello: hello}}); err != nil {
		return a.streamError(stream, err)
	}
	a.outbox.restart()
	a.points.settle()
	sent := make(chan error, 1)
	go func() {
		err := a.send(ctx, stream)
		cancel() // the receiving side must not wait for a stream nobody writes to
		sent <- err
	}()
	err = a.receive(stream)
	cancel()
	return errors.Join(err, <-sent)
}

// awaitStanding waits until keepStanding has renewed an expired node SVID, or
// until the clock says that it has not expired: it was ahead, and was set.
func (a *Agent) awaitStanding(ctx context.Context, old *standing) error {
	look := time.NewTicker(clockLook)
	defer look.Stop()
	for {
		changed := a.standingChanged.wait()
		if a.standing.Load() != old || !old.expired(a.cfg.Now()) {
			return nil
		}
		select {
		case <-changed:
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// streamError finds the reason of a stream that cannot be written to.
func (a *Agent) streamError(stream syncStream, err error) error {
	if _, cause := stream.Recv(); cause != nil {
		err = cause
	}
	return a.up.explain(err, a.cfg.Now())
}

// receive applies what the server sends, in order.
func (a *Agent) receive(stream syncStream) error {
	for {
		in, err := stream.Recv()
		if err != nil {
			return a.up.explain(err, a.cfg.Now())
		}
		if a.contact.heard() {
			a.setBanned(false)
			a.cfg.Log.Info("server connected", "server", a.up.address)
			a.identities.Retry()
			a.tokens.Retry()
			if a.wits != nil {
				a.wits.Retry()
			}
		}
		switch m := in.GetMessage().(type) {
		case *pb.SyncResponse_State:
			err = a.applyState(m.State)
		case *pb.SyncResponse_Delta:
			err = a.applyDelta(m.Delta.GetDelta())
		case *pb.SyncResponse_Directory:
			a.catalog.apply(m.Directory)
			a.points.direct()
			a.keep.stateChanged()
		case *pb.SyncResponse_Current:
			if a.interest.confirm(m.Current.GetInterest()) {
				a.points.covered()
				a.keep.stateChanged()
			}
		case *pb.SyncResponse_Why:
			answer := &pb.WhyAnswer{Query: m.Why.GetQuery(), Decisions: a.why(m.Why)}
			a.outbox.answer(&pb.SyncRequest{Message: &pb.SyncRequest_Why{Why: answer}})
		case *pb.SyncResponse_Flows:
			a.outbox.answer(&pb.SyncRequest{Message: &pb.SyncRequest_Flows{Flows: a.flows.answer(m.Flows)}})
		}
		if err != nil {
			return err
		}
	}
}

func (a *Agent) applyState(in *pb.State) error {
	a.measureSkew(in.GetNowUnixNano())
	w, err := newWorld(in)
	if err != nil {
		return fmt.Errorf("state from the server: %w", err)
	}
	at := a.standing.Load()
	if w.domain != at.domain() {
		return fmt.Errorf("state from the server is of trust domain %s", w.domain)
	}
	if old := a.world.Load(); old != nil && old.epoch == w.epoch && w.behind(old) {
		a.cfg.Log.Error("state of the server went back: an older one was put back there", "from", old.revision, "revision", w.revision,
			"hint", "kith status on the server; what was changed since is to be changed again")
	}
	a.adopt(w, nil)
	a.cfg.Log.Debug("state applied", "revision", w.revision, "objects", w.objects.Len())
	return nil
}

// applyDelta refuses a gap: the stream is opened again, and the whole state
// asked for.
func (a *Agent) applyDelta(raw []byte) error {
	delta := &pb.Delta{}
	if err := proto.Unmarshal(raw, delta); err != nil {
		return fmt.Errorf("delta from the server: %w", err)
	}
	w := a.world.Load()
	if w == nil {
		return errors.New("delta from the server before any state")
	}
	if delta.GetRevision() <= w.revision {
		return nil // known already; its ack is out or will be
	}
	next, err := w.apply(delta)
	if err != nil {
		return fmt.Errorf("delta from the server: %w", err)
	}
	a.adopt(next, raw)
	a.cfg.Log.Debug("delta applied", "revision", next.revision)
	return nil
}

func (a *Agent) measureSkew(serverNow int64) {
	if serverNow == 0 {
		return
	}
	skew := time.Unix(0, serverNow).Sub(a.cfg.Now())
	a.contact.setSkew(skew)
	a.metrics.skew.Set(skew.Seconds())
	if skew.Abs() > skewWarning {
		a.cfg.Log.Warn("clock differs from the server's", "skew", skew.Round(time.Millisecond).String())
	}
}

// send is the only writer of the stream after hello.
func (a *Agent) send(ctx context.Context, stream syncStream) error {
	seen := time.NewTicker(seenEvery)
	defer seen.Stop()
	for {
		for message := a.outbox.next(&a.interest, a.localEndpoints); message != nil; message = a.outbox.next(&a.interest, a.localEndpoints) {
			if err := stream.Send(message); err != nil {
				return nil // receive knows why
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.outbox.wake:
		case <-seen.C:
			a.reportSeen(stream)
			a.pruneInterest()
		}
	}
}

func (a *Agent) reportSeen(stream syncStream) {
	active := a.identities.Active()
	if len(active) == 0 {
		return
	}
	last := &pb.LastSeen{Identities: make(map[string]int64, len(active))}
	now := a.cfg.Now().Unix()
	for _, id := range active {
		last.Identities[id.String()] = now
	}
	_ = stream.Send(&pb.SyncRequest{Message: &pb.SyncRequest_LastSeen{LastSeen: last}}) // receive knows why
}

// pruneInterest ends the interest in services that no point here answers for and
// of which no process here could have an SVID without the server.
func (a *Agent) pruneInterest() {
	if w := a.world.Load(); w != nil {
		a.interest.keep(append(a.points.services(), w.servicesOf(a.identities.Held())...))
	}
}

// localEndpoints is what the server is to know of this node: the endpoints of
// attached points, and for a while those that were there before a restart.
func (a *Agent) localEndpoints() []*pb.LocalEndpoint {
	w := a.world.Load()
	if w == nil || a.banned.Load() {
		return nil
	}
	out := a.points.endpoints(w)
	if before := a.remembered.Load(); before != nil {
		out = append(out, *before...)
	}
	slices.SortFunc(out, compareEndpoints)
	out = slices.CompactFunc(out, func(a, b *pb.LocalEndpoint) bool { return compareEndpoints(a, b) == 0 })
	return out[:min(len(out), maxEndpoints)]
}

func compareEndpoints(a, b *pb.LocalEndpoint) int {
	return cmp.Or(cmp.Compare(a.GetService(), b.GetService()), cmp.Compare(a.GetAddress(), b.GetAddress()),
		cmp.Compare(a.GetSpiffeId(), b.GetSpiffeId()))
}
