package workload

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/spiffe"
)

func withJWTKey(t testing.TB, b *spiffe.Bundle, id string, key *ecdsa.PrivateKey) *spiffe.Bundle {
	t.Helper()
	out, err := b.WithJWTKeys(append(b.JWTKeys(), spiffe.JWTKey{ID: id, Public: &key.PublicKey})...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// jwtForm is a token before it is signed; a test changes it.
type jwtForm struct {
	Kid string   `json:"-"`
	Sub string   `json:"sub"`
	Aud []string `json:"aud"`
	Exp int64    `json:"exp"`
	Iat int64    `json:"iat"`
}

func (f jwtForm) sign(key *ecdsa.PrivateKey) (string, error) {
	claims, err := json.Marshal(f)
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	content := encode([]byte(`{"alg":"ES256","kid":"`+f.Kid+`","typ":"JWT"}`)) + "." + encode(claims)
	digest := sha256.Sum256([]byte(content))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", err
	}
	var halves [64]byte
	r.FillBytes(halves[:32])
	s.FillBytes(halves[32:])
	return content + "." + encode(halves[:]), nil
}

// SignJWTs implements JWTSigner.
func (w *world) SignJWTs(ctx context.Context, requests []*pb.JWTRequest) ([]*pb.SignedJWT, error) {
	w.mu.Lock()
	hold := w.signing
	w.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away != nil {
		return nil, w.away
	}
	out := make([]*pb.SignedJWT, len(requests))
	for i, r := range requests {
		w.jwts = append(w.jwts, r.GetSpiffeId()+" for "+strings.Join(r.GetAudience(), " "))
		if w.refuse != "" {
			out[i] = &pb.SignedJWT{Error: w.refuse, ErrorKind: fault.Denied.String()}
			continue
		}
		now := time.Now().Add(w.skew)
		form := jwtForm{Kid: "now", Sub: r.GetSpiffeId(), Aud: r.GetAudience(), Iat: now.Unix(), Exp: now.Add(w.jwtTTL).Unix()}
		if w.forge != nil {
			w.forge(&form)
		}
		token, err := form.sign(w.jwtKey)
		if err != nil {
			return nil, err
		}
		out[i] = &pb.SignedJWT{Token: token}
	}
	return out, nil
}

// signed is how many JWT-SVIDs were asked of the server.
func (w *world) signed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.jwts)
}

// fetchJWT is one call of FetchJWTSVID.
func (e *endpoint) fetchJWT(t testing.TB, id string, audience ...string) (*workloadpb.JWTSVIDResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(secured(t.Context()), time.Minute)
	defer cancel()
	return e.api().FetchJWTSVID(ctx, &workloadpb.JWTSVIDRequest{Audience: audience, SpiffeId: id})
}

// validateJWT is one call of ValidateJWTSVID.
func (e *endpoint) validateJWT(t testing.TB, audience, token string) (*workloadpb.ValidateJWTSVIDResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(secured(t.Context()), time.Minute)
	defer cancel()
	return e.api().ValidateJWTSVID(ctx, &workloadpb.ValidateJWTSVIDRequest{Audience: audience, Svid: token})
}

// mustFetchJWT is the one token of the default workload.
func (e *endpoint) mustFetchJWT(t testing.TB, audience ...string) string {
	t.Helper()
	resp, err := e.fetchJWT(t, "", audience...)
	if err != nil || len(resp.GetSvids()) != 1 {
		t.Fatalf("FetchJWTSVID: %v, %v", resp, err)
	}
	return resp.GetSvids()[0].GetSvid()
}
