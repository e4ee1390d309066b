package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/spiffe"
)

// jwtServer is a server that signs JWT-SVIDs too.
type jwtServer struct {
	*testServer
	key *ecdsa.PrivateKey
}

// withJWTKeys is the server's bundle with a key by each of these names.
func (s jwtServer) withJWTKeys(names ...string) *pb.Bundle {
	s.t.Helper()
	td, _ := spiffe.ParseTrustDomain(domain)
	var keys []spiffe.JWTKey
	for _, name := range names {
		keys = append(keys, spiffe.JWTKey{ID: name, Public: &s.key.PublicKey})
	}
	b, err := spiffe.NewBundle(td, uint64(1+len(names)), 0, s.ca.cert).WithJWTKeys(keys...)
	if err != nil {
		s.t.Fatal(err)
	}
	jwks, err := b.Marshal()
	if err != nil {
		s.t.Fatal(err)
	}
	return &pb.Bundle{TrustDomain: domain, Jwks: jwks}
}

// SignJWT signs by the last key of the bundle.
func (s *testServer) SignJWT(_ context.Context, req *pb.SignJWTRequest) (*pb.SignJWTResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &pb.SignJWTResponse{}
	for _, r := range req.GetRequests() {
		claims, err := json.Marshal(map[string]any{
			"sub": r.GetSpiffeId(), "aud": r.GetAudience(), "iat": time.Now().Unix(), "exp": time.Now().Add(5 * time.Minute).Unix(),
		})
		if err != nil {
			return nil, err
		}
		encode := base64.RawURLEncoding.EncodeToString
		content := encode([]byte(`{"alg":"ES256","kid":"`+s.jwtKid+`"}`)) + "." + encode(claims)
		digest := sha256.Sum256([]byte(content))
		x, y, err := ecdsa.Sign(rand.Reader, s.jwtKey, digest[:])
		if err != nil {
			return nil, err
		}
		var halves [64]byte
		x.FillBytes(halves[:32])
		y.FillBytes(halves[32:])
		out.Results = append(out.Results, &pb.SignedJWT{Token: content + "." + encode(halves[:])})
	}
	return out, nil
}

func newJWTServer(t *testing.T) jwtServer { return withJWTs(newServer(t)) }

// withJWTs lets a server sign JWT-SVIDs.
func withJWTs(inner *testServer) jwtServer {
	inner.t.Helper()
	s := jwtServer{inner, newKey(inner.t)}
	s.locked(func() {
		s.jwtKey, s.jwtKid = s.key, "first"
		s.state.Bundles = []*pb.Bundle{s.withJWTKeys("first")}
	})
	return s
}

// jwt fetches the caller's token for an audience.
func (n *node) jwt(audience string) (string, error) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(n.t.Context(), "workload.spiffe.io", "true"), time.Minute)
	defer cancel()
	resp, err := workloadpb.NewSpiffeWorkloadAPIClient(n.dial()).FetchJWTSVID(ctx, &workloadpb.JWTSVIDRequest{Audience: []string{audience}})
	if err != nil {
		return "", err
	}
	return resp.GetSvids()[0].GetSvid(), nil
}

// A token is served from the cache while the server is away, and a new one once
// it is back, by the key it has by then.
func TestJWTWhileTheServerIsAway(t *testing.T) {
	t.Parallel()
	s := newJWTServer(t)
	n := newNode(t, s.testServer)
	n.start()
	n.people.be(200, 2000)
	first, err := n.jwt("orders")
	if err != nil {
		t.Fatal(err)
	}
	s.down()
	if again, err := n.jwt("orders"); err != nil || again != first {
		t.Errorf("with the server away: %v", err)
	}
	if _, err := n.jwt("billing"); status.Code(err) != codes.Unavailable {
		t.Errorf("a new audience with the server away: got %v, want Unavailable", err)
	}
	s.locked(func() { s.state = proto.CloneOf(s.state) })
	s.listen()
	if _, err := n.jwt("billing"); err != nil {
		t.Errorf("with the server back: %v", err)
	}
}

// A delta with a bundle replaces the keys, and what they no longer vouch for.
func TestNewJWTKeysArriveByDelta(t *testing.T) {
	t.Parallel()
	s := newJWTServer(t)
	n := newNode(t, s.testServer)
	n.start()
	n.people.be(200, 2000)
	first, err := n.jwt("orders")
	if err != nil {
		t.Fatal(err)
	}
	push := func(names ...string) {
		bundle := s.withJWTKeys(names...)
		s.locked(func() {
			s.state = proto.CloneOf(s.state)
			s.state.Revision++
			s.state.Bundles = []*pb.Bundle{bundle}
			raw, err := proto.Marshal(&pb.Delta{Revision: s.state.Revision, Bundles: s.state.Bundles})
			if err != nil {
				t.Fatal(err)
			}
			s.push(&pb.SyncResponse{Message: &pb.SyncResponse_Delta{Delta: &pb.EncodedDelta{Delta: raw}}})
		})
		eventually(t, "the delta", func() bool { return s.acked(s.state.GetRevision()) != nil })
	}
	push("first", "second")
	if again, err := n.jwt("orders"); err != nil || again != first {
		t.Errorf("with one more key: %v", err)
	}
	s.locked(func() { s.jwtKid = "second" })
	push("second")
	again, err := n.jwt("orders")
	if err != nil || again == first {
		t.Errorf("with the first key gone: the same token %t, %v", again == first, err)
	}
}
