package workload

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// jwtBundles opens the stream of bundles and returns a reader of it.
func (e *endpoint) jwtBundles(t *testing.T) func() (map[string][]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(secured(t.Context()), time.Minute)
	t.Cleanup(cancel)
	stream, err := e.api().FetchJWTBundles(ctx, &workloadpb.JWTBundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return func() (map[string][]byte, error) {
		m, err := stream.Recv()
		return m.GetBundles(), err
	}
}

// Rule 92: JWT bundles are keyed by trust domain ID, the own one always there.
func TestRule92JWTBundlesByTrustDomain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	next := e.jwtBundles(t)
	first, err := next()
	if err != nil || len(first) != 2 || first["spiffe://"+domain] == nil || first["spiffe://other.example"] == nil {
		t.Fatalf("got %v, %v", first, err)
	}
	own := mustID("spiffe://" + domain + "/x").TrustDomain()
	w.change(func() {
		w.bundles = spiffe.BundleMap{own: withJWTKey(t, w.bundles[own], "next", w.jwtKey)}
	})
	second, err := next()
	if err != nil || len(second) != 1 {
		t.Fatalf("after a change: %v, %v", second, err)
	}
	if b, err := spiffe.ParseBundle(own, second["spiffe://"+domain]); err != nil || len(b.JWTKeys()) != 2 {
		t.Errorf("after a change: %s, %v", second["spiffe://"+domain], err)
	}
}

// Rule 93: no identity, no token, no bundle and no answer about a token; also
// mid-stream.
func TestRule93NoIdentityNoJWT(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	token := e.mustFetchJWT(t, "orders")
	next := e.jwtBundles(t)
	if _, err := next(); err != nil {
		t.Fatal(err)
	}
	w.change(func() { w.ev.Matches = nil })
	_, err := next()
	wantCode(t, err, codes.PermissionDenied)
	_, err = e.fetchJWT(t, "", "orders") // although one is in the cache
	wantCode(t, err, codes.PermissionDenied)
	_, err = e.validateJWT(t, "orders", token)
	wantCode(t, err, codes.PermissionDenied)
	_, err = e.jwtBundles(t)()
	wantCode(t, err, codes.PermissionDenied)
}

// Rule 94: audience is mandatory; no spiffe_id is all identities; one that is
// not the caller's is denied.
func TestRule94AudienceAndIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := "spiffe://" + domain + "/vms/second"
	w.ev.Matches = append(w.ev.Matches, registry.Match{Rule: "b", ID: mustID(second), Hint: "h"})
	e := start(t, w, 0)
	for _, audience := range [][]string{nil, {""}, {"orders", ""}, {"a b"}} {
		_, err := e.fetchJWT(t, "", audience...)
		wantCode(t, err, codes.InvalidArgument)
	}
	all, err := e.fetchJWT(t, "", "orders")
	if err != nil || len(all.GetSvids()) != 2 || all.GetSvids()[0].GetSpiffeId() != "spiffe://"+domain+"/vms/web" || all.GetSvids()[1].GetHint() != "h" {
		t.Fatalf("without an ID: %v, %v", all, err)
	}
	one, err := e.fetchJWT(t, second, "orders")
	if err != nil || len(one.GetSvids()) != 1 || one.GetSvids()[0].GetSpiffeId() != second {
		t.Errorf("with an ID: %v, %v", one, err)
	}
	_, err = e.fetchJWT(t, "spiffe://"+domain+"/vms/other", "orders")
	wantCode(t, err, codes.PermissionDenied)
	_, err = e.fetchJWT(t, "not an ID", "orders")
	wantCode(t, err, codes.InvalidArgument)
	for _, svid := range all.GetSvids() {
		parsed, err := spiffe.ParseJWT(svid.GetSvid())
		if err != nil || parsed.ID.String() != svid.GetSpiffeId() {
			t.Errorf("token of %s: %v, %v", svid.GetSpiffeId(), parsed, err)
		}
	}
}

// Rule 95: a JWT bundle holds keys for JWT-SVIDs and nothing else.
func TestRule95OnlyJWTKeys(t *testing.T) {
	t.Parallel()
	e := start(t, newWorld(t), 0)
	bundles, err := e.jwtBundles(t)()
	if err != nil {
		t.Fatal(err)
	}
	for td, document := range bundles {
		if strings.Contains(string(document), "x509-svid") || strings.Contains(string(document), "x5c") {
			t.Errorf("%s: %s", td, document)
		}
	}
	if own := string(bundles["spiffe://"+domain]); !strings.Contains(own, `"use":"jwt-svid"`) || !strings.Contains(own, `"kid":"now"`) {
		t.Errorf("own: %s", own)
	}
	if other := string(bundles["spiffe://other.example"]); !strings.HasPrefix(other, `{"keys":[]`) {
		t.Errorf("a trust domain without keys: %s", other)
	}
}

// Rule 96: validation is that of JWT-SVID, with the bundle of the subject's
// trust domain, and returns the claims.
func TestRule96Validate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	token := e.mustFetchJWT(t, "billing", "orders")
	got, err := e.validateJWT(t, "orders", token)
	if err != nil || got.GetSpiffeId() != "spiffe://"+domain+"/vms/web" {
		t.Fatalf("got %v, %v", got, err)
	}
	claims := got.GetClaims().AsMap()
	if claims["sub"] != got.GetSpiffeId() || len(claims["aud"].([]any)) != 2 {
		t.Errorf("claims are %v", claims)
	}
	elsewhere, err := jwtForm{Kid: "now", Sub: "spiffe://other.example/web", Aud: []string{"orders"}, Exp: time.Now().Unix() + 60}.sign(w.jwtKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string][2]string{
		"no audience": {"", token}, "no token": {"orders", ""}, "not for us": {"web", token}, "changed": {"orders", token + "A"},
		"no token at all": {"orders", "x"}, "our key, their name": {"orders", elsewhere},
	} {
		if _, err := e.validateJWT(t, c[0], c[1]); err == nil {
			t.Errorf("%s: it is valid", name)
		} else {
			wantCode(t, err, codes.InvalidArgument)
		}
	}
}

// A token goes to the process that was evaluated, or to nobody.
func TestChangedProcessGetsNoJWT(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	w.set(func() { w.checked = fault.Deniedf("process 4242 runs another program by now") })
	resp, err := e.fetchJWT(t, "", "orders")
	wantCode(t, err, codes.PermissionDenied)
	if resp != nil {
		t.Error("a changed process got a token")
	}
}

func TestServerRefusesAJWT(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.refuse = "identity rule web: workload.unix.uid != 0 is false"
	e := start(t, w, 0)
	began := time.Now()
	_, err := e.fetchJWT(t, "", "orders")
	wantCode(t, err, codes.PermissionDenied)
	if took := time.Since(began); took > signWait/2 {
		t.Errorf("the refusal took %s", took)
	}
	w.set(func() { w.refuse = "" }) // and is not remembered
	e.mustFetchJWT(t, "orders")
}

func TestServerAwayForANewAudience(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.away, w.wait = errors.New("connection refused"), awayWait
	e := start(t, w, 0)
	ctx, cancel := context.WithTimeout(secured(t.Context()), time.Minute)
	defer cancel()
	_, err := e.api().FetchJWTSVID(ctx, &workloadpb.JWTSVIDRequest{Audience: []string{"orders"}})
	wantCode(t, err, codes.Unavailable)
}

// One audience is one token, in whatever order its names come.
func TestAudienceIsASet(t *testing.T) {
	t.Parallel()
	e := start(t, newWorld(t), 0)
	first := e.mustFetchJWT(t, "billing", "orders")
	if again := e.mustFetchJWT(t, "orders", "billing", "orders"); again != first || e.signed() != 1 {
		t.Errorf("%d tokens were signed for one audience", e.signed())
	}
	if other := e.mustFetchJWT(t, "orders"); other == first {
		t.Error("a token for two was given for one")
	}
}

// T5: one user cannot take all calls.
func TestCallsOfOneUserAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signing = make(chan struct{})
	e := start(t, w, 2)
	var waiting sync.WaitGroup
	for _, audience := range []string{"a", "b"} {
		waiting.Go(func() {
			if _, err := e.fetchJWT(t, "", audience); err != nil {
				t.Errorf("for %s: %v", audience, err)
			}
		})
	}
	for { // until both wait for the server
		e.tokens.mu.Lock()
		n := e.tokens.count
		e.tokens.mu.Unlock()
		if n == 2 {
			break
		}
		runtime.Gosched()
	}
	_, err := e.fetchJWT(t, "", "c")
	wantCode(t, err, codes.Unavailable)
	close(w.signing)
	waiting.Wait()
}
