package workload

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// next reads messages until one satisfies want.
func next(t *testing.T, stream grpc.ServerStreamingClient[workloadpb.X509SVIDResponse], want func(*workloadpb.X509SVIDResponse) bool) *workloadpb.X509SVIDResponse {
	t.Helper()
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatalf("waiting for the next message: %v", err)
		}
		if want(m) {
			return m
		}
	}
}

// Rule 84: each message is the full state, also after a change of one part.
func TestRule84EachMessageIsTheFullState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	stream, first, err := e.fetch(t)
	if err != nil {
		t.Fatal(err)
	}
	w.change(func() {
		w.ev.Matches = append(w.ev.Matches, registry.Match{Rule: "extra", ID: mustID("spiffe://" + domain + "/vms/extra")})
	})
	second := next(t, stream, func(m *workloadpb.X509SVIDResponse) bool { return len(m.GetSvids()) == 2 })
	if !bytes.Equal(second.GetSvids()[0].GetX509Svid(), first.GetSvids()[0].GetX509Svid()) || len(second.GetFederatedBundles()) != 1 {
		t.Error("the second message does not repeat what had not changed")
	}
}

// Rule 85: the first message comes immediately, later ones on change.
func TestRule85FirstMessageAtOnceLaterOnChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	stream, first, err := e.fetch(t)
	if err != nil {
		t.Fatal(err)
	}
	e.identities.Renew()
	next(t, stream, func(m *workloadpb.X509SVIDResponse) bool {
		return !bytes.Equal(m.GetSvids()[0].GetX509Svid(), first.GetSvids()[0].GetX509Svid())
	})
	again, cached, err := e.fetch(t)
	if err != nil {
		t.Fatal(err)
	}
	_ = again
	if bytes.Equal(cached.GetSvids()[0].GetX509Svid(), first.GetSvids()[0].GetX509Svid()) {
		t.Error("a second stream got the SVID of before the renewal")
	}
}

// Rule 86: what is withdrawn is absent from the next message.
func TestRule86AbsenceIsRedaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ev.Matches = append(w.ev.Matches, registry.Match{Rule: "extra", ID: mustID("spiffe://" + domain + "/vms/extra")})
	e := start(t, w, 0)
	stream, first, err := e.fetch(t)
	if err != nil || len(first.GetSvids()) != 2 {
		t.Fatalf("got %v, %v", first, err)
	}
	w.change(func() {
		w.ev.Matches = w.ev.Matches[:1]
		own := w.ev.Matches[0].ID.TrustDomain()
		w.bundles = spiffe.BundleMap{own: w.bundles[own]}
	})
	next(t, stream, func(m *workloadpb.X509SVIDResponse) bool {
		return len(m.GetSvids()) == 1 && len(m.GetFederatedBundles()) == 0
	})
}

// Rule 67, 68: a trust domain that has revoked all its keys is gone from the next
// message of every open stream, and the own one is not.
func TestRule68RevokedDomainIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	stream, first, err := e.fetch(t)
	if err != nil || len(first.GetFederatedBundles()) != 1 {
		t.Fatalf("got %v, %v; want one federated bundle", first, err)
	}
	w.change(func() {
		bundles := maps.Clone(w.bundles)
		for td := range bundles {
			if td.String() != domain {
				bundles[td] = spiffe.NewBundle(td, 9, 0)
			}
		}
		w.bundles = bundles
	})
	next(t, stream, func(m *workloadpb.X509SVIDResponse) bool {
		return len(m.GetFederatedBundles()) == 0 && len(m.GetSvids()[0].GetBundle()) > 0
	})
	bundles, err := e.api().FetchX509Bundles(secured(t.Context()), &workloadpb.X509BundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if all, err := bundles.Recv(); err != nil || len(all.GetBundles()) != 1 {
		t.Errorf("bundles: got %v %v, want the own one alone", all, err)
	}
}

// Rule 93, and 80 mid-stream: redaction of everything ends the stream.
func TestRule93RedactionMidStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	stream, _, err := e.fetch(t)
	if err != nil {
		t.Fatal(err)
	}
	w.change(func() { w.ev.Matches = nil })
	_, err = stream.Recv()
	wantCode(t, err, codes.PermissionDenied)
}

// Rule 87: the X.509 requests have no mandatory field; ours are never lacking one.
func TestRule87And89EveryFieldIsSet(t *testing.T) {
	t.Parallel()
	e := start(t, newWorld(t), 0)
	_, first, err := e.fetch(t)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.GetSvids()) == 0 {
		t.Fatal("no SVID in the response")
	}
	for _, s := range first.GetSvids() {
		svid, err := spiffe.ParseX509SVID(s.GetX509Svid(), s.GetX509SvidKey())
		if err != nil {
			t.Fatalf("SVID and key: %v", err)
		}
		roots, err := x509.ParseCertificates(s.GetBundle())
		if err != nil || len(roots) == 0 {
			t.Errorf("bundle: %d certificates, %v", len(roots), err)
		}
		if s.GetSpiffeId() != svid.ID.String() {
			t.Errorf("spiffe_id %s, certificate %s", s.GetSpiffeId(), svid.ID)
		}
	}
}

// Rule 88: bundles are keyed by the trust domain they are of.
// Rule 91, 92: an X.509 bundle holds roots only, and the own one is there.
func TestRule88And91And92BundlesByTrustDomain(t *testing.T) {
	t.Parallel()
	e := start(t, newWorld(t), 0)
	ctx, cancel := context.WithTimeout(secured(t.Context()), time.Minute)
	defer cancel()
	stream, err := e.api().FetchX509Bundles(ctx, &workloadpb.X509BundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, td := range []string{"spiffe://" + domain, "spiffe://other.example"} {
		roots, err := x509.ParseCertificates(first.GetBundles()[td])
		if err != nil || len(roots) != 1 || !roots[0].IsCA {
			t.Errorf("%s: got %d certificates, %v, want one root", td, len(roots), err)
		}
	}
	e.change(func() { e.ev.Matches = nil })
	_, err = stream.Recv()
	wantCode(t, err, codes.PermissionDenied)
}

// Rule 90: a hint is unique in a response. Rule 98: the default comes first.
func TestRule90And98HintsAndOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ev.Matches = []registry.Match{
		{Rule: "b", ID: mustID("spiffe://" + domain + "/vms/default"), Hint: "internal"},
		{Rule: "a", ID: mustID("spiffe://" + domain + "/vms/second"), Hint: "internal"},
		{Rule: "c", ID: mustID("spiffe://" + domain + "/vms/third"), Hint: strings.Repeat("h", 255)},
	}
	e := start(t, w, 0)
	_, first, err := e.fetch(t)
	if err != nil {
		t.Fatal(err)
	}
	got := first.GetSvids()
	if got[0].GetSpiffeId() != "spiffe://"+domain+"/vms/default" || got[0].GetHint() != "internal" {
		t.Errorf("first is %s with hint %q", got[0].GetSpiffeId(), got[0].GetHint())
	}
	if got[1].GetHint() != "" || len(got[2].GetHint()) != 255 {
		t.Errorf("hints: got %q and %d bytes", got[1].GetHint(), len(got[2].GetHint()))
	}
}

// T2: the identity goes to the process that was evaluated, or to nobody.
func TestChangedProcessGetsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	w.set(func() { w.checked = fault.Deniedf("process 4242 runs another program by now") })
	_, first, err := e.fetch(t)
	wantCode(t, err, codes.PermissionDenied)
	if first != nil {
		t.Error("a changed process got an SVID")
	}
}

func TestEqualWorkloadsShareOneSVID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	_, a, err := e.fetch(t)
	if err != nil {
		t.Fatal(err)
	}
	_, b, err := e.fetch(t)
	if err != nil || !bytes.Equal(a.GetSvids()[0].GetX509SvidKey(), b.GetSvids()[0].GetX509SvidKey()) {
		t.Errorf("two streams of equal attributes have different keys (%v)", err)
	}
	w.change(func() { w.ev.Attributes = registry.Attributes{"workload.unix.uid": "1001"} })
	_, c, err := e.fetch(t)
	if err != nil || bytes.Equal(a.GetSvids()[0].GetX509SvidKey(), c.GetSvids()[0].GetX509SvidKey()) {
		t.Errorf("a workload with other attributes has the same key (%v)", err)
	}
}

func TestServerAwayKeepsValidSVIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	stream, first, err := e.fetch(t)
	if err != nil {
		t.Fatal(err)
	}
	w.set(func() { w.away = errors.New("connection refused") })
	e.identities.Renew()
	_, again, err := e.fetch(t)
	if err != nil || !bytes.Equal(again.GetSvids()[0].GetX509Svid(), first.GetSvids()[0].GetX509Svid()) {
		t.Fatalf("while the server is away: got %v", err)
	}
	w.set(func() { w.away = nil })
	e.identities.Retry()
	next(t, stream, func(m *workloadpb.X509SVIDResponse) bool {
		return !bytes.Equal(m.GetSvids()[0].GetX509Svid(), first.GetSvids()[0].GetX509Svid())
	})
}

func TestStreamWaitsForAServerThatComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.away = errors.New("connection refused")
	e := start(t, w, 0)
	var back sync.WaitGroup
	back.Go(func() {
		for { // until the first attempt has failed
			w.mu.Lock()
			tried := len(w.batches) > 0
			w.mu.Unlock()
			if tried {
				break
			}
		}
		w.set(func() { w.away = nil })
		e.identities.Retry()
	})
	_, first, err := e.fetch(t)
	back.Wait()
	if err != nil || len(first.GetSvids()) != 1 {
		t.Errorf("got %v, %v, want the SVID once the server is back", first, err)
	}
}

func TestShortLivedSVIDsAreRenewedAtHalfLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ttl = 3 * time.Second
	e := start(t, w, 0)
	stream, first, err := e.fetch(t)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(first.GetSvids()[0].GetX509Svid())
	if err != nil {
		t.Fatal(err)
	}
	next(t, stream, func(m *workloadpb.X509SVIDResponse) bool {
		return !bytes.Equal(m.GetSvids()[0].GetX509Svid(), first.GetSvids()[0].GetX509Svid())
	})
	if left := time.Until(leaf.NotAfter); left < 500*time.Millisecond {
		t.Errorf("renewed %s before the end, want about half of the life", left)
	}
}
