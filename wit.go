package kith

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

const (
	fetchWITSVID    = "/SpiffeWorkloadAPI/FetchWITSVID"
	fetchWITBundles = "/SpiffeWorkloadAPI/FetchWITBundles"

	maxBundleText = 1 << 20
)

// wits is the WIT half of an identity. Nothing is fetched before somebody asks.
type wits struct {
	svid    kept[spiffe.WITSVID]
	bundles kept[spiffe.BundleMap]
}

// init takes what to do when bundles have changed.
func (s *wits) init(changed func()) {
	s.svid.init()
	s.bundles.init()
	s.bundles.changed = changed
}

// kept is a value that a stream of the agent keeps current once it is wanted.
type kept[T any] struct {
	value  atomic.Pointer[T]
	want   sync.Once
	wanted chan struct{} // closed when somebody has asked
	turn   sync.Mutex
	failed error         // of the last attempt; guarded by turn
	again  chan struct{} // closed and replaced after each attempt or value; guarded by turn

	changed func() // called after a new value; nil for nothing
}

func (k *kept[T]) init() { k.wanted, k.again = make(chan struct{}), make(chan struct{}) }

// set keeps a value, nil for none, and why there is none.
func (k *kept[T]) set(value *T, failed error) {
	k.turn.Lock()
	former := k.value.Swap(value)
	k.failed = failed
	close(k.again)
	k.again = make(chan struct{})
	k.turn.Unlock()
	if former != value && k.changed != nil {
		k.changed()
	}
}

// fail notes why there is nothing new; what there is stays.
func (k *kept[T]) fail(failed error) { k.set(k.value.Load(), failed) }

// ask has the value fetched from now on.
func (k *kept[T]) ask() { k.want.Do(func() { close(k.wanted) }) }

// get is the value of now, or the first one there is. Without one it fails at
// once where the agent has refused, and else when ctx ends.
func (k *kept[T]) get(ctx context.Context) (*T, error) {
	k.ask()
	for {
		k.turn.Lock()
		value, failed, again := k.value.Load(), k.failed, k.again
		k.turn.Unlock()
		switch kind := fault.KindOf(failed); {
		case value != nil:
			return value, nil
		case kind == fault.Denied || kind == fault.Invalid:
			return nil, failed
		}
		select {
		case <-again:
		case <-ctx.Done():
			if failed != nil {
				return nil, failed
			}
			return nil, ctx.Err()
		}
	}
}

// WITSVID is the current WIT-SVID of this program, with the key to prove it by;
// the first call waits for the first one. By itself it convinces nobody: see
// [Workload.SigningTransport]. Where the WIT profile is off it fails and says so.
func (w *Workload) WITSVID(ctx context.Context) (*spiffe.WITSVID, error) {
	svid, err := w.wits.svid.get(ctx)
	if err != nil {
		return nil, err
	}
	if now := w.cfg.Now(); !now.Before(svid.Expiry) {
		return nil, fault.Hint(fault.Deniedf("WIT-SVID of %s expired at %s", svid.ID, svid.Expiry.Format(time.RFC3339)), "kith doctor")
	}
	return svid, nil
}

// WITBundle is the current bundle of a trust domain's keys for WIT-SVIDs, if this
// program may trust it. It never blocks: before the first one there is none.
func (w *Workload) WITBundle(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	if bundles := w.wits.bundles.value.Load(); bundles != nil {
		return bundles.Bundle(td)
	}
	return nil, false
}

// followWITs keeps WIT-SVID and bundles current from when they are wanted.
func (w *Workload) followWITs(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { followKept(ctx, w, &w.wits.svid, "WIT-SVID", w.fetchWIT) })
	running.Go(func() { followKept(ctx, w, &w.wits.bundles, "WIT bundles", w.fetchWITBundles) })
}

// followKept has a value fetched again whenever its stream breaks. An agent that
// says twice in a row that there is none for this process takes it away.
func followKept[T any](ctx context.Context, w *Workload, k *kept[T], what string, fetch func(context.Context, func(*T)) error) {
	select {
	case <-k.wanted:
	case <-ctx.Done():
		return
	}
	pause, refusals := newBackoff(), 0
	for ctx.Err() == nil {
		err := fetch(ctx, func(value *T) {
			pause.reset()
			refusals = 0
			k.set(value, nil)
		})
		if ctx.Err() != nil {
			return
		}
		failed := agentError("fetch "+what, err)
		if refusals++; status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.Unimplemented {
			refusals = 0
		}
		if refusals == refusalsToWithdraw {
			k.set(nil, failed)
		} else {
			k.fail(failed)
		}
		w.cfg.Log.LogAttrs(ctx, slog.LevelDebug, what+" not renewed", slog.Any("error", err))
		pause.wait(ctx)
	}
}

func (w *Workload) fetchWIT(ctx context.Context, got func(*spiffe.WITSVID)) error {
	stream, err := openStream(secured(ctx), w.conn, fetchWITSVID, &pb.WITSVIDRequest{})
	if err != nil {
		return err
	}
	for {
		answer := new(pb.WITSVIDResponse)
		if err := stream.RecvMsg(answer); err != nil {
			return err
		}
		svid, err := parseWIT(answer)
		if err != nil {
			w.cfg.Log.Error("WIT-SVID refused", "error", err) // a bad new value keeps the old one
			w.wits.svid.fail(fmt.Errorf("WIT-SVID from the agent: %w", err))
			continue
		}
		got(svid)
	}
}

// parseWIT is the default WIT-SVID of an answer, in the hands of its owner.
func parseWIT(answer *pb.WITSVIDResponse) (*spiffe.WITSVID, error) {
	if n := len(answer.GetSvids()); n == 0 || n > maxSVIDs {
		return nil, fmt.Errorf("%d SVIDs, between 1 and %d are allowed", n, maxSVIDs)
	}
	first := answer.GetSvids()[0] // WIT-SVID profile of the Workload API: the default one
	svid, err := spiffe.ParseWIT(first.GetWitSvid())
	if err != nil {
		return nil, err
	}
	if svid.ID.String() != first.GetSpiffeId() {
		return nil, fmt.Errorf("it is of %s, said to be of %q", svid.ID, first.GetSpiffeId())
	}
	key, err := spiffe.ParseProofKey([]byte(first.GetWitSvidKey()))
	if err != nil {
		return nil, err
	}
	if svid, err = svid.WithKey(key); err != nil {
		return nil, err
	}
	svid.Hint = first.GetHint()
	return svid, nil
}

func (w *Workload) fetchWITBundles(ctx context.Context, got func(*spiffe.BundleMap)) error {
	stream, err := openStream(secured(ctx), w.conn, fetchWITBundles, &pb.WITBundlesRequest{})
	if err != nil {
		return err
	}
	for {
		answer := new(pb.WITBundlesResponse)
		if err := stream.RecvMsg(answer); err != nil {
			return err
		}
		bundles, err := parseWITBundles(answer)
		if err != nil {
			w.cfg.Log.Error("WIT bundles refused", "error", err)
			continue
		}
		got(&bundles)
	}
}

func parseWITBundles(answer *pb.WITBundlesResponse) (spiffe.BundleMap, error) {
	if n := len(answer.GetBundles()); n > maxBundles {
		return nil, fmt.Errorf("%d bundles, %d are allowed", n, maxBundles)
	}
	out := make(spiffe.BundleMap, len(answer.GetBundles()))
	for name, text := range answer.GetBundles() {
		td, err := spiffe.ParseTrustDomain(trimScheme(name))
		if err == nil && len(text) > maxBundleText {
			err = errors.New("too long")
		}
		if err != nil {
			return nil, fmt.Errorf("bundle: %w", err)
		}
		if out[td], err = spiffe.ParseBundle(td, []byte(text)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// openStream calls a method of the standard's with messages of our own package; see
// openX509SVID.
func openStream(ctx context.Context, conn grpc.ClientConnInterface, method string, request proto.Message) (grpc.ClientStream, error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(request); err != nil {
		if cause := stream.RecvMsg(&pb.WITBundlesResponse{}); cause != nil {
			return nil, cause // the status behind the io.EOF of a failed send
		}
		return nil, err
	}
	return stream, stream.CloseSend()
}
