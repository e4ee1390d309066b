package workload

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb/envoypb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// delta is a stream of changes as Envoy keeps one.
type delta struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[envoypb.DeltaDiscoveryRequest, envoypb.DeltaDiscoveryResponse]
}

func (e *endpoint) delta(t *testing.T, first *envoypb.DeltaDiscoveryRequest) delta {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	stream, err := envoypb.NewSecretDiscoveryServiceClient(e.conn).DeltaSecrets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	d := delta{t, stream}
	d.send(first)
	return d
}

func (d delta) send(req *envoypb.DeltaDiscoveryRequest) {
	d.t.Helper()
	if err := d.stream.Send(req); err != nil && !errors.Is(err, io.EOF) { // EOF: the stream has ended, and Recv knows why
		d.t.Fatal(err)
	}
}

// want reads the next response and compares the names in it.
func (d delta) want(what string, sent, removed []string) {
	d.t.Helper()
	m, err := d.stream.Recv()
	if err != nil {
		d.t.Fatalf("%s: %v", what, err)
	}
	var got []string
	for _, r := range m.GetResources() {
		s := &envoypb.Secret{}
		if err := r.GetResource().UnmarshalTo(s); err != nil || s.GetName() != r.GetName() || r.GetVersion() == "" {
			d.t.Errorf("%s: resource %s %s holds %s: %v", what, r.GetName(), r.GetVersion(), s.GetName(), err)
		}
		got = append(got, r.GetName())
	}
	if !slices.Equal(got, sent) || !slices.Equal(m.GetRemovedResources(), removed) {
		d.t.Fatalf("%s: got %q without %q, want %q without %q", what, got, m.GetRemovedResources(), sent, removed)
	}
	d.send(&envoypb.DeltaDiscoveryRequest{ResponseNonce: m.GetNonce()})
}

func TestDeltaSecretsSendWhatChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	e.fetch(t) // SVIDs that are being signed come in a response of their own
	d := e.delta(t, &envoypb.DeltaDiscoveryRequest{Node: envoyNode(newEnvoy), ResourceNamesSubscribe: []string{"default", otherTD, "nobody"}})
	d.want("at first", []string{"default", otherTD}, []string{"nobody"})
	e.identities.Renew()
	d.want("a renewal", []string{"default"}, nil)
	d.send(&envoypb.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"ROOTCA", otherTD}, ResourceNamesUnsubscribe: []string{"default", "never"}})
	d.want("new names and one again", []string{"ROOTCA", otherTD}, nil)
	own := mustID(ownTD + "/x").TrustDomain()
	w.change(func() {
		w.ev.Matches = append(w.ev.Matches, registry.Match{Rule: "extra", ID: mustID("spiffe://" + domain + "/vms/extra")})
		w.bundles = spiffe.BundleMap{own: w.bundles[own]}
	})
	d.want("a trust domain that is gone has roots of nobody", []string{otherTD}, nil)
	w.change(func() { w.ev.Matches = nil })
	_, err := d.stream.Recv()
	wantCode(t, err, codes.PermissionDenied)
}

func TestDeltaSecretsOfEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ev.Matches = append(w.ev.Matches, registry.Match{Rule: "extra", ID: mustID("spiffe://" + domain + "/vms/extra")})
	e := start(t, w, 0)
	e.fetch(t)
	extra := "spiffe://" + domain + "/vms/extra"
	d := e.delta(t, &envoypb.DeltaDiscoveryRequest{Node: envoyNode(oldEnvoy), InitialResourceVersions: map[string]string{"default": "x"}})
	d.want("everything", []string{"default", ownTD, extra, webID, otherTD}, nil)
	w.change(func() { w.ev.Matches = w.ev.Matches[:1] })
	d.want("one less", nil, []string{extra})
	d.send(&envoypb.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{webID}, ResourceNamesUnsubscribe: []string{"*"}})
	d.want("what is named stays", []string{webID}, nil)
	wantCode(t, func() error {
		d := e.delta(t, &envoypb.DeltaDiscoveryRequest{TypeUrl: "something else"})
		_, err := d.stream.Recv()
		return err
	}(), codes.InvalidArgument)
}

// Whatever is asked for, nothing panics, nothing is sent twice in a row, and
// nobody gets an SVID that was not evaluated.
func FuzzSecretRequests(f *testing.F) {
	for _, m := range []proto.Message{
		&envoypb.DiscoveryRequest{ResourceNames: []string{"default", "ALL", otherTD}, Node: envoyNode(newEnvoy), VersionInfo: "1"},
		&envoypb.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"*", "ROOTCA"}, InitialResourceVersions: map[string]string{webID: "1"}},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, raw)
	}
	w := newWorld(f)
	e := start(f, w, 0)
	lease := e.identities.Acquire(NewEvaluation(w.ev.Attributes, w.ev.Matches, nil))
	f.Cleanup(lease.Release)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := lease.Wait(ctx); err != nil {
		f.Fatal(err)
	}
	s := NewService(ServiceConfig{Host: w, Identities: e.identities, Log: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, one, two []byte) {
		whole := &wholeSession{s: s}
		changes := &deltaSession{s: s, wanted: make(map[string]*wantedSecret)}
		for _, raw := range [][]byte{one, two} {
			req, d := &envoypb.DiscoveryRequest{}, &envoypb.DeltaDiscoveryRequest{}
			if proto.Unmarshal(raw, req) == nil && whole.hear(req) == nil {
				all := secrets{held: lease.State(), trust: w.Trust(), plain: whole.old()}
				if _, err := whole.next(all); err == nil {
					if again, err := whole.next(all); again != nil || err != nil {
						t.Errorf("sent again without a change: %v, %v", again, err)
					}
				}
			}
			if proto.Unmarshal(raw, d) == nil && changes.hear(d) == nil {
				all := secrets{held: lease.State(), trust: w.Trust(), plain: changes.old()}
				if _, err := changes.next(all); err == nil {
					if again, err := changes.next(all); again != nil || err != nil {
						t.Errorf("change sent again without a change: %v, %v", again, err)
					}
				}
			}
		}
	})
}
