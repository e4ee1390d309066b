package workload

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// newWITWorld is a world whose agent serves the WIT profile.
func newWITWorld(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	var err error
	if w.witKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	w.witTTL = time.Hour
	own := w.Trust().Domain
	if w.bundles[own], err = w.bundles[own].WithWITKeys(spiffe.JWTKey{ID: "wit", Public: &w.witKey.PublicKey}); err != nil {
		t.Fatal(err)
	}
	return w
}

// witForm is a token before it is signed; a test bends it.
type witForm struct {
	Typ string         `json:"-"`
	Sub string         `json:"sub"`
	Exp int64          `json:"exp"`
	Nbf int64          `json:"nbf"`
	Aud string         `json:"aud,omitempty"`
	Cnf map[string]any `json:"cnf"`
}

// SignWITs implements WITSigner.
func (w *world) SignWITs(_ context.Context, csrs []*pb.WorkloadCSR) ([]*pb.SignedWIT, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.batches = append(w.batches, len(csrs))
	if w.away != nil {
		return nil, w.away
	}
	out := make([]*pb.SignedWIT, len(csrs))
	for i, c := range csrs {
		if w.refuse != "" {
			out[i] = &pb.SignedWIT{Error: w.refuse, ErrorKind: fault.Denied.String()}
			continue
		}
		csr, err := x509.ParseCertificateRequest(c.GetCsr())
		if err != nil || csr.CheckSignature() != nil || csr.Subject.String() != "" {
			return nil, errors.New("the request is not only a key and its proof")
		}
		jwk, err := spiffe.MarshalProofJWK(csr.PublicKey)
		if err != nil {
			return nil, err
		}
		now := time.Now().Add(w.skew)
		form := witForm{
			Typ: "wit+jwt", Sub: c.GetSpiffeId(), Nbf: now.Add(-time.Second).Unix(), Exp: now.Add(w.witTTL).Unix(),
			Cnf: map[string]any{"jwk": json.RawMessage(jwk)},
		}
		if w.bend != nil {
			w.bend(&form)
		}
		if out[i], err = form.sign(w.witKey); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (f witForm) sign(key *ecdsa.PrivateKey) (*pb.SignedWIT, error) {
	claims, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	encode := base64.RawURLEncoding.EncodeToString
	content := encode([]byte(`{"alg":"ES256","kid":"wit","typ":"`+f.Typ+`"}`)) + "." + encode(claims)
	digest := sha256.Sum256([]byte(content))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	var halves [64]byte
	r.FillBytes(halves[:32])
	s.FillBytes(halves[32:])
	return &pb.SignedWIT{Token: content + "." + encode(halves[:])}, nil
}

// fetchWIT opens a stream and returns it with its first message.
func (e *endpoint) fetchWIT(t *testing.T, id string) (grpc.ServerStreamingClient[workloadpb.WITSVIDResponse], *workloadpb.WITSVIDResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(secured(t.Context()), 60*time.Second)
	t.Cleanup(cancel)
	stream, err := e.api().FetchWITSVID(ctx, &workloadpb.WITSVIDRequest{SpiffeId: id})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	return stream, first, err
}

// owned is a message's token in the hands of its owner, verified as a peer does.
func (w *world) owned(t *testing.T, m *workloadpb.WITSVID) *spiffe.WITSVID {
	t.Helper()
	trust := w.Trust()
	svid, err := spiffe.ValidateWIT(m.GetWitSvid(), spiffe.WITCheck{Bundle: trust.Bundles.Bundle, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	key, err := spiffe.ParseProofKey([]byte(m.GetWitSvidKey()))
	if err != nil {
		t.Fatal(err)
	}
	if svid, err = svid.WithKey(key); err != nil {
		t.Fatal(err)
	}
	return svid
}

// Rules 82, 85, 87 and 97: the first message at once, with every field, and a key
// in it that proves the token.
func TestRule97WITSVIDWithItsKey(t *testing.T) {
	t.Parallel()
	w := newWITWorld(t)
	w.ev.Matches = append(w.ev.Matches, registry.Match{Rule: "more", ID: mustID("spiffe://" + domain + "/vms/more"), Hint: "h"}, registry.Match{Rule: "third", ID: mustID("spiffe://" + domain + "/vms/third"), Hint: "h"})
	e := start(t, w, 0)
	_, first, err := e.fetchWIT(t, "")
	if err != nil || len(first.GetSvids()) != 3 {
		t.Fatalf("got %v, %v", first, err)
	}
	if hints := first.Svids[1].Hint + "," + first.Svids[2].Hint; hints != "h," { // rule 90
		t.Errorf("hints are %s", hints)
	}
	for _, m := range first.GetSvids() {
		if svid := w.owned(t, m); svid.ID.String() != m.GetSpiffeId() {
			t.Errorf("%s is said to be of %s", svid.ID, m.GetSpiffeId())
		}
	}
	_, one, err := e.fetchWIT(t, "spiffe://"+domain+"/vms/more")
	if err != nil || len(one.GetSvids()) != 1 || one.Svids[0].SpiffeId != "spiffe://"+domain+"/vms/more" || one.Svids[0].WitSvid != first.Svids[1].WitSvid {
		t.Errorf("of the one it names: %v, %v", one, err)
	}
	_, _, err = e.fetchWIT(t, "spiffe://"+domain+"/vms/other")
	wantCode(t, err, codes.PermissionDenied)
	_, _, err = e.fetchWIT(t, "vms")
	wantCode(t, err, codes.InvalidArgument)
}

// Rules 84 and 93: a renewal is a whole new message with a new key, and a workload
// that has no identity any more is told so in the middle of its stream.
func TestRule84And93WITRenewalAndRedaction(t *testing.T) {
	t.Parallel()
	w := newWITWorld(t)
	e := start(t, w, 0)
	stream, first, err := e.fetchWIT(t, "")
	if err != nil {
		t.Fatal(err)
	}
	e.wits.Renew()
	second, err := stream.Recv()
	if err != nil || len(second.GetSvids()) != 1 {
		t.Fatalf("got %v, %v", second, err)
	}
	a, b := w.owned(t, first.Svids[0]), w.owned(t, second.Svids[0])
	if a.Token() == b.Token() || a.VerifyProof([]byte("x"), mustProve(t, b)) == nil {
		t.Error("the renewed token has the old key")
	}
	w.change(func() { w.ev = Evaluation{Attributes: w.ev.Attributes} })
	_, err = stream.Recv()
	wantCode(t, err, codes.PermissionDenied)
}

func mustProve(t *testing.T, svid *spiffe.WITSVID) []byte {
	t.Helper()
	proof, err := svid.Prove([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// Rules 91, 92 and 97: bundles are texts of the keys for WIT-SVIDs alone, of each
// trust domain.
func TestRule91And92And97WITBundles(t *testing.T) {
	t.Parallel()
	w := newWITWorld(t)
	e := start(t, w, 0)
	ctx, cancel := context.WithTimeout(secured(t.Context()), 60*time.Second)
	defer cancel()
	stream, err := e.api().FetchWITBundles(ctx, &workloadpb.WITBundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	own := first.GetBundles()["spiffe://"+domain]
	if !strings.Contains(own, `"kid":"wit"`) || strings.Contains(own, "jwt-svid") || strings.Contains(own, "x509-svid") || len(first.GetBundles()) != 2 {
		t.Errorf("bundles are %v", first.GetBundles())
	}
	td := w.Trust().Domain
	w.change(func() {
		next := spiffe.BundleMap{}
		for k, v := range w.bundles {
			next[k] = v
		}
		if next[td], err = next[td].WithWITKeys(); err != nil {
			t.Error(err)
		}
		w.bundles = next
	})
	second, err := stream.Recv()
	if err != nil || !strings.HasPrefix(second.GetBundles()["spiffe://"+domain], `{"keys":[]`) {
		t.Errorf("after the keys are gone: %v, %v", second, err)
	}
}

// What the server sends is handed out only if it is what was asked for.
func TestWITsThatAreNotAccepted(t *testing.T) {
	t.Parallel()
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := spiffe.MarshalProofJWK(&stranger.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	id := mustID("spiffe://" + domain + "/vms/web")
	for name, bend := range map[string]func(*witForm){
		"other ID":    func(f *witForm) { f.Sub += "x" },
		"other key":   func(f *witForm) { f.Cnf = map[string]any{"jwk": json.RawMessage(jwk)} },
		"no key":      func(f *witForm) { f.Cnf = nil },
		"audience":    func(f *witForm) { f.Aud = "x" },
		"other typ":   func(f *witForm) { f.Typ = "JWT" },
		"ended":       func(f *witForm) { f.Exp = time.Now().Add(-time.Second).Unix() },
		"to come":     func(f *witForm) { f.Nbf = time.Now().Add(5 * time.Minute).Unix() },
		"lives on":    func(f *witForm) { f.Exp = time.Now().Add(1000 * time.Hour).Unix() },
		"other trust": func(f *witForm) { f.Sub = "spiffe://other.example/vms/web" },
	} {
		w := newWITWorld(t)
		w.bend = bend
		key, csr, err := newRequest()
		if err != nil {
			t.Fatal(err)
		}
		results, err := witSigner{w}.SignWorkloads(t.Context(), []*pb.WorkloadCSR{{SpiffeId: id.String(), Csr: csr}})
		if err != nil {
			t.Fatal(err)
		}
		if issued, err := acceptWIT(id, key, results[0], w.Trust(), time.Now()); err == nil || issued != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Rule 80: the server away is Unavailable, a refusal PermissionDenied.
func TestRule80WITCodes(t *testing.T) {
	t.Parallel()
	w := newWITWorld(t)
	w.refuse = "not for you"
	_, _, err := start(t, w, 0).fetchWIT(t, "")
	wantCode(t, err, codes.PermissionDenied)
	w = newWITWorld(t)
	w.away, w.wait = errors.New("gone"), awayWait
	_, _, err = start(t, w, 0).fetchWIT(t, "")
	wantCode(t, err, codes.Unavailable)
}
