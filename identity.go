package kith

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

const (
	fetchX509SVID  = "/SpiffeWorkloadAPI/FetchX509SVID"
	securityHeader = "workload.spiffe.io" // Workload API 3: without it an agent refuses
	maxSVIDs       = 64
	maxBundles     = 1024
)

// identity is one immutable answer of the Workload API.
type identity struct {
	svid    *spiffe.X509SVID
	all     []*spiffe.X509SVID // svid is the first
	bundles map[spiffe.TrustDomain]*spiffe.Bundle
	expires time.Time
	leaf    string // names the leaf
	trust   uint64 // counts the changes of bundles
	epoch   string // names leaf and bundles in the keys of pooled client connections
}

// follow keeps the identity current while the Enforce stream that carries our
// claim is open. It returns when ctx ends.
func (w *Workload) follow(ctx context.Context) {
	pause := newBackoff()
	level := slog.LevelWarn // once for each failure
	refusals := 0
	for ctx.Err() == nil {
		err := w.fetch(ctx, func() { pause.reset(); level, refusals = slog.LevelWarn, 0 })
		if ctx.Err() != nil {
			return
		}
		failed := agentError("fetch identity", err)
		w.first.fail(failed)
		if refusals++; fault.KindOf(failed) != fault.Denied {
			refusals = 0
		}
		if refusals == refusalsToWithdraw {
			w.withdraw()
		}
		w.cfg.Log.Log(ctx, level, "identity not renewed", "error", err)
		level = slog.LevelDebug
		pause.wait(ctx)
	}
}

func (w *Workload) fetch(ctx context.Context, progress func()) error {
	stream, err := openX509SVID(secured(ctx), w.conn)
	if err != nil {
		return err
	}
	for {
		answer := new(pb.X509SVIDResponse)
		if err := stream.RecvMsg(answer); err != nil {
			return err
		}
		progress()
		next, err := parseIdentity(answer)
		if err != nil {
			// A bad new value keeps the old one.
			w.cfg.Log.Error("identity refused", "error", err)
			w.first.fail(fmt.Errorf("identity from the agent: %w", err))
			continue
		}
		w.adopt(next)
	}
}

// openX509SVID calls the standard's method with messages of our own package. The
// generated client cannot be used: it registers the standard's messages, which
// have no package, and so a program that links go-spiffe as well would not start.
func openX509SVID(ctx context.Context, conn grpc.ClientConnInterface) (grpc.ClientStream, error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{StreamName: "FetchX509SVID", ServerStreams: true}, fetchX509SVID)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(&pb.X509SVIDRequest{}); err != nil {
		if cause := stream.RecvMsg(&pb.X509SVIDResponse{}); cause != nil {
			return nil, cause // the status behind the io.EOF of a failed send
		}
		return nil, err
	}
	return stream, stream.CloseSend()
}

// adopt puts a new identity in force: handshakes use it from now on, connections
// whose peer's root is gone are cut, pooled client connections made with the old
// one are left to drain.
func (w *Workload) adopt(next *identity) {
	previous := w.identity.Load() // no other goroutine adopts
	distrust := previous != nil && !sameBundles(previous.bundles, next.bundles)
	if previous != nil {
		next.trust = previous.trust
	}
	if distrust {
		next.trust++
	}
	next.epoch = next.leaf + "-" + strconv.FormatUint(next.trust, 10)
	w.identity.Store(next)
	w.first.rotations.Add(1)
	if distrust {
		w.accepts.verifyAgain(w)
		w.dials.verifyAgain(w)
	}
	renewal := make(chan struct{})
	close(*w.renewal.Swap(&renewal))
	w.calls.closeIdle()
	w.targets.again()
	w.nudgeClock()
	w.first.identity()
	w.cfg.Log.Info("identity received", "spiffe_id", next.svid.ID.String(), "expires", next.expires)
}

// refusalsToWithdraw is how often in a row the agent must say that this process
// has no identity, before the one from before is used no more. An agent that is
// away, or whose server is, says something else.
const refusalsToWithdraw = 2

// withdraw ends the use of an identity that is ours no longer, as when the node
// was banned or the rule that gave it is gone: from now on it is as if expired,
// and connections that were made with it end.
func (w *Workload) withdraw() {
	current := w.identity.Load()
	if current == nil || current.expires.IsZero() {
		return
	}
	gone := *current
	gone.expires, gone.epoch = time.Time{}, "0" // no pooled connection has this epoch
	if !w.identity.CompareAndSwap(current, &gone) {
		return // another has just come
	}
	w.cfg.Log.Error("identity withdrawn by the agent", "spiffe_id", gone.svid.ID.String())
	w.live.decideAgain(w)
	w.accepts.closeAll()
	w.dials.closeAll()
}

// clockPause is how long an exchange may live on beyond the time in which a rule
// allows it.
const clockPause = time.Second

// watchClock cuts live exchanges when the identity ends unrenewed, and when rules
// that look at the time no longer allow them; handshakes and new requests are
// refused by then without its help.
func (w *Workload) watchClock(ctx context.Context) {
	for {
		var ends, passes <-chan time.Time
		if w.policy.Load().timed() {
			passes = time.After(clockPause)
		}
		if current := w.identity.Load(); current != nil {
			if left := current.expires.Sub(w.cfg.Now()); left > 0 {
				ends = time.After(left)
			}
		}
		select {
		case <-ends:
			w.cfg.Log.Error("identity has expired", "spiffe_id", w.ID().String())
			w.live.decideAgain(w)
		case <-passes:
			w.live.decideAgain(w)
		case <-w.nudged:
		case <-ctx.Done():
			return
		}
	}
}

// nudgeClock tells watchClock that there is another identity or policy.
func (w *Workload) nudgeClock() {
	select {
	case w.nudged <- struct{}{}:
	default:
	}
}

func parseIdentity(answer *pb.X509SVIDResponse) (*identity, error) {
	if n := len(answer.GetSvids()); n == 0 || n > maxSVIDs {
		return nil, fmt.Errorf("%d SVIDs, between 1 and %d are allowed", n, maxSVIDs)
	}
	if n := len(answer.GetFederatedBundles()); n > maxBundles {
		return nil, fmt.Errorf("%d federated bundles, %d are allowed", n, maxBundles)
	}
	next := &identity{bundles: make(map[spiffe.TrustDomain]*spiffe.Bundle)}
	// X.509-SVID profile of the Workload API: the first SVID is the default one.
	for i, message := range answer.GetSvids() {
		svid, err := spiffe.ParseX509SVID(message.GetX509Svid(), message.GetX509SvidKey())
		if err != nil {
			return nil, fmt.Errorf("SVID %d: %w", i, err)
		}
		if svid.ID.String() != message.GetSpiffeId() {
			return nil, fmt.Errorf("SVID %d is of %s, said to be of %q", i, svid.ID, message.GetSpiffeId())
		}
		if err := next.addBundle(svid.ID.TrustDomain(), message.GetBundle()); err != nil {
			return nil, err
		}
		svid.Hint = message.GetHint()
		next.add(svid)
	}
	for name, der := range answer.GetFederatedBundles() {
		id, err := spiffe.ParseTrustDomain(trimScheme(name))
		if err != nil {
			return nil, fmt.Errorf("federated bundle: %w", err)
		}
		if id == next.svid.ID.TrustDomain() {
			continue // the own bundle comes with the SVID only
		}
		if err := next.addBundle(id, der); err != nil {
			return nil, err
		}
	}
	next.expires = next.svid.Expiry()
	sum := sha256.Sum256(next.svid.Certificates[0].Raw)
	next.leaf = hex.EncodeToString(sum[:4])
	return next, nil
}

// add takes a further SVID. X.509-SVID profile of the Workload API: of those with the
// same hint the first one counts.
func (n *identity) add(svid *spiffe.X509SVID) {
	if n.svid == nil {
		n.svid = svid
	}
	if svid.Hint == "" || !slices.ContainsFunc(n.all, func(s *spiffe.X509SVID) bool { return s.Hint == svid.Hint }) {
		n.all = append(n.all, svid)
	}
}

func (n *identity) addBundle(td spiffe.TrustDomain, der []byte) error {
	roots, err := x509.ParseCertificates(der)
	if err == nil && len(roots) == 0 {
		err = errors.New("empty")
	}
	if err != nil {
		return fmt.Errorf("bundle of %s: %w", td, err)
	}
	n.bundles[td] = spiffe.NewBundle(td, 0, 0, roots...)
	return nil
}

func trimScheme(name string) string {
	const scheme = "spiffe://"
	if len(name) > len(scheme) && name[:len(scheme)] == scheme {
		return name[len(scheme):]
	}
	return name
}

func sameBundles(a, b map[spiffe.TrustDomain]*spiffe.Bundle) bool {
	if len(a) != len(b) {
		return false
	}
	for td, bundle := range a {
		other, ok := b[td]
		if !ok || !bundle.Equal(other) {
			return false
		}
	}
	return true
}
