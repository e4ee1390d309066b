package kith_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/proxy/proxytest"
	"github.com/kith-id/kith/spiffe"
)

// witOf is a WIT-SVID for an ID, and the bundle that vouches for it.
func witOf(t *testing.T, id spiffe.ID, now time.Time) (token string, bundle *spiffe.Bundle) {
	t.Helper()
	var keys [2]*ecdsa.PrivateKey // the issuer's, and the owner's
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	jwk, err := spiffe.MarshalProofJWK(&keys[1].PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	content := encode([]byte(`{"alg":"ES256","kid":"k","typ":"wit+jwt"}`)) + "." +
		encode(fmt.Appendf(nil, `{"sub":%q,"exp":%d,"cnf":{"jwk":%s}}`, id.String(), now.Add(time.Hour).Unix(), jwk))
	sum := sha256.Sum256([]byte(content))
	r, s, err := ecdsa.Sign(rand.Reader, keys[0], sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	if bundle, err = spiffe.ParseBundle(id.TrustDomain(), []byte(`{"keys":[]}`)); err == nil {
		bundle, err = bundle.WithWITKeys(spiffe.JWTKey{ID: "k", Public: keys[0].Public()})
	}
	if err != nil {
		t.Fatal(err)
	}
	return content + "." + encode(signature), bundle
}

// Attack 33: what was allowed to a caller that had proven its WIT-SVID ends when
// its trust domain's keys are revoked, as a connection over mutual TLS does, and a
// change that leaves them ends nothing.
func TestAttack33RevokedKeysCutProvenCallers(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	agent.Service("orders", "http")
	agent.Service("web", "http")
	agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	w := open(t, agent, kith.Config{As: "orders", Serves: true})
	agent.Settled()
	now := time.Now()
	id, err := spiffe.NewID(w.ID().TrustDomain(), "/dev/web")
	if err != nil {
		t.Fatal(err)
	}
	token, bundle := witOf(t, id, now)
	kith.SetWITBundles(w, spiffe.BundleMap{id.TrustDomain(): bundle})
	peer, err := kith.Proven(w, token, now)
	if err != nil {
		t.Fatal(err)
	}
	cut := make(chan kith.Decision, 1)
	request := kith.Request{Protocol: kith.HTTP, Method: "GET", Path: "/stream"}
	d, release := w.Hold(peer, request, func(d kith.Decision) { cut <- d })
	defer release()
	if !d.Allowed {
		t.Fatalf("got %+v, want allowed", d)
	}
	other, err := spiffe.ParseBundle(id.TrustDomain(), []byte(`{"keys":[],"spiffe_sequence":2}`))
	if err != nil {
		t.Fatal(err)
	}
	more, err := bundle.WithWITKeys(append(bundle.WITKeys(), spiffe.JWTKey{ID: "l", Public: bundle.WITKeys()[0].Public})...)
	if err != nil {
		t.Fatal(err)
	}
	kith.SetWITBundles(w, spiffe.BundleMap{id.TrustDomain(): more})
	if d := w.Decide(peer, request); !d.Allowed || len(cut) > 0 {
		t.Errorf("after a key was added: %+v, %d cut", d, len(cut))
	}
	kith.SetWITBundles(w, spiffe.BundleMap{id.TrustDomain(): other})
	select {
	case d := <-cut:
		if d.Allowed || d.Reason != "peer_revoked" || d.ID == "" {
			t.Errorf("cut by %+v", d)
		}
	case <-time.After(proxytest.Patience):
		t.Error("the stream goes on after its caller's keys were revoked")
	}
	if d := w.Decide(peer, request); d.Allowed || d.Reason != "peer_revoked" {
		t.Errorf("asked again: %+v", d)
	}
}
