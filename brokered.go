package kith

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

// Brokered is the identity of another workload, kept current for a program that acts
// for it. It is a [spiffe.Source] of that workload and of nobody else: bundles of one
// say nothing about another (Broker API 4.2).
type Brokered struct {
	b       *Broker
	ref     spiffe.Reference
	held    heldProcess
	state   atomic.Pointer[identity]
	renewal atomic.Pointer[chan struct{}]
	stop    context.CancelFunc
	done    chan struct{}

	mu     sync.Mutex
	failed error // why there is nothing new; guarded by mu
}

// Follow fetches the X509-SVIDs of a workload and keeps them current until ctx ends,
// Close, or the workload is gone or not ours to act for, when everything held of it
// is dropped. It returns with the first ones.
func (b *Broker) Follow(ctx context.Context, ref spiffe.Reference) (*Brokered, error) {
	request, err := brokerRequest(ref)
	if err == nil {
		err = b.at.carries(ref)
	}
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(ctx)
	f := &Brokered{b: b, ref: ref, held: holdProcess(ref), stop: stop, done: make(chan struct{})}
	renewal := make(chan struct{})
	f.renewal.Store(&renewal)
	go f.run(life, request)
	limit := time.NewTimer(b.wait)
	defer limit.Stop()
	select {
	case <-renewal:
	case <-limit.C:
	case <-f.done:
	}
	if f.state.Load() != nil {
		return f, nil
	}
	err = f.Err()
	f.Close()
	if err == nil {
		err = fault.Hint(fmt.Errorf("fetch X509-SVIDs of %s: no answer from %s in %s", ref, b.at, b.wait), "kith status")
	}
	return nil, err
}

// run asks until it is told that there is nothing for us, or ctx ends.
func (f *Brokered) run(ctx context.Context, request *pb.BrokerRequest) {
	defer f.end()
	pause := newBackoff()
	for {
		renewed := f.b.w.Renewed() // before asking, so that no renewal is missed
		other, err := f.follow(ctx, request, pause.reset)
		if ctx.Err() != nil {
			return
		}
		f.fail(f.b.explain("X509-SVIDs", f.ref, err, other))
		switch {
		case other != nil || final(status.Code(err)):
			return
		case status.Code(err) == codes.Unauthenticated:
			// Broker Endpoint 6: by other credentials only.
			select {
			case <-renewed:
			case <-ctx.Done():
			}
		}
		pause.wait(ctx)
	}
}

// final is what no further question changes, by the table of Broker Endpoint 6 and
// that of Broker API 4.8.
func final(code codes.Code) bool {
	return slices.Contains([]codes.Code{codes.InvalidArgument, codes.PermissionDenied, codes.NotFound, codes.Unimplemented, codes.ResourceExhausted}, code)
}

// follow is one stream; other is why the endpoint is not the expected one.
func (f *Brokered) follow(ctx context.Context, request *pb.BrokerRequest, progress func()) (other *error, err error) {
	if err := f.held.ended(); err != nil {
		return nil, err
	}
	line, err := f.b.take()
	if err != nil {
		f.stop()
		return nil, err
	}
	defer f.b.give(line)
	stream, err := openStream(metadata.AppendToOutgoingContext(ctx, brokerHeader, "true"), line.conn, brokerService+"SubscribeToX509SVID", request)
	for err == nil {
		answer := new(pb.X509SVIDResponse)
		if err = stream.RecvMsg(answer); err == nil {
			err = f.held.ended()
		}
		if err != nil {
			break
		}
		progress()
		next, bad := parseIdentity(answer)
		if bad != nil { // Broker API 4.6: discarded
			f.b.w.cfg.Log.Error("brokered identity refused", "of", f.ref.String(), "error", bad)
			f.fail(fmt.Errorf("X509-SVIDs of %s: %w", f.ref, bad))
			if f.state.Load() == nil {
				f.stop() // there is nothing to keep
			}
			continue
		}
		f.state.Store(next) // full state: of the former one nothing stays
		f.fail(nil)
		f.tell()
	}
	if errors.Is(err, io.EOF) {
		err = status.Error(codes.Unavailable, "the endpoint ended the stream")
	}
	return line.other.Load(), err
}

// tell closes what Renewed has given out.
func (f *Brokered) tell() {
	renewal := make(chan struct{})
	close(*f.renewal.Swap(&renewal))
}

// end forgets all there is (Broker API 4.9), and says so.
func (f *Brokered) end() {
	f.held.release()
	f.state.Store(nil)
	close(f.done)
	f.tell()
}

func (f *Brokered) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = err
}

// Err is why there is nothing new: of a source that is done, why it ended; nil if
// that was by Close or ctx, and while all is well.
func (f *Brokered) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// Done is closed when there is no identity any more and none will come.
func (f *Brokered) Done() <-chan struct{} { return f.done }

// Close ends it, and waits until everything is dropped.
func (f *Brokered) Close() {
	f.stop()
	<-f.done
}

// Renewed is closed when the identity or a bundle has been replaced, or dropped,
// after this call.
func (f *Brokered) Renewed() <-chan struct{} { return *f.renewal.Load() }

// X509SVID is the workload's default identity. It fails when there is none any more,
// or it has expired.
func (f *Brokered) X509SVID() (*spiffe.X509SVID, error) {
	current := f.state.Load()
	if current == nil {
		if err := f.Err(); err != nil {
			return nil, err
		}
		return nil, fault.Deniedf("identity of %s: it is not followed any more", f.ref)
	}
	if now := f.b.w.cfg.Now(); !now.Before(current.expires) {
		return nil, fault.Deniedf("SVID of %s expired at %s and was not renewed", current.svid.ID, current.expires.UTC().Format(time.RFC3339))
	}
	return current.svid, nil
}

// X509SVIDs are all identities of the workload, the default one first. Where there
// are several, hints tell them apart.
func (f *Brokered) X509SVIDs() []*spiffe.X509SVID {
	if current := f.state.Load(); current != nil {
		return slices.Clone(current.all)
	}
	return nil
}

// ID is the workload's default ID, zero when there is none.
func (f *Brokered) ID() spiffe.ID {
	if current := f.state.Load(); current != nil {
		return current.svid.ID
	}
	return spiffe.ID{}
}

// Bundle is the bundle of a trust domain, if the workload may trust it.
func (f *Brokered) Bundle(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	current := f.state.Load()
	if current == nil {
		return nil, false
	}
	bundle, ok := current.bundles[td]
	return bundle, ok
}
