package workload

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/spiffe"
)

// WITSigner has WIT-SVIDs signed; it is the connection to the server. Results and
// error are as those of a [Signer].
type WITSigner interface {
	SignWITs(ctx context.Context, csrs []*pb.WorkloadCSR) ([]*pb.SignedWIT, error)
}

// WITConfig is what NewWITs needs. Trust, Now, Log and Metrics are as in [Config].
type WITConfig struct {
	Signer  WITSigner
	Trust   func() Trust
	Now     func() time.Time
	Log     *slog.Logger
	Metrics *Metrics
}

// NewWITs is Identities of WIT-SVIDs: one key and token for each set of equal
// attributes and rule, renewed at half its life with a fresh key. They are kept in
// memory only.
func NewWITs(cfg WITConfig) *Identities {
	return NewIdentities(Config{
		Signer: witSigner{cfg.Signer}, Trust: cfg.Trust, Now: cfg.Now, Log: cfg.Log, Metrics: cfg.Metrics,
		form: form{accept: acceptWIT, respond: witResponse},
	})
}

// witSigner is a Signer whose chains are a token.
type witSigner struct{ WITSigner }

// SignWorkloads implements Signer.
func (s witSigner) SignWorkloads(ctx context.Context, csrs []*pb.WorkloadCSR) ([]*pb.SignedWorkload, error) {
	results, err := s.SignWITs(ctx, csrs)
	if err != nil {
		return nil, err
	}
	out := make([]*pb.SignedWorkload, len(results))
	for i, r := range results {
		out[i] = &pb.SignedWorkload{Chain: [][]byte{[]byte(r.GetToken())}, Error: r.GetError(), ErrorKind: r.GetErrorKind()}
	}
	return out, nil
}

// acceptWIT takes an answer only if it is what was asked for - our ID, our key -
// and verifies with the bundle of now.
func acceptWIT(id spiffe.ID, key *ecdsa.PrivateKey, result *pb.SignedWorkload, trust Trust, now time.Time) (*Issued, error) {
	if text := result.GetError(); text != "" {
		return nil, answerError(text, result.GetErrorKind())
	}
	if n := len(result.GetChain()); n != 1 {
		return nil, fmt.Errorf("server sent %d tokens", n)
	}
	svid, err := spiffe.ParseWIT(string(result.GetChain()[0]))
	if err != nil {
		return nil, fmt.Errorf("server sent an unusable token: %w", err)
	}
	if svid.ID != id {
		return nil, fmt.Errorf("server signed for %s instead of %s", svid.ID, id)
	}
	proof, err := spiffe.NewProofKey(key)
	if err != nil {
		return nil, err
	}
	if _, err := svid.WithKey(proof); err != nil {
		return nil, fmt.Errorf("server sent an unusable token: %w", err)
	}
	switch {
	case !now.Before(svid.Expiry):
		return nil, fmt.Errorf("this clock is at least %s ahead of the server's: the token has ended", now.Sub(svid.Expiry).Round(time.Second))
	case svid.NotBefore.After(now.Add(spiffe.JWTLeeway)):
		return nil, fmt.Errorf("this clock is at least %s behind the server's: the token is to come", svid.NotBefore.Sub(now).Round(time.Second))
	}
	if _, err := spiffe.ValidateWIT(svid.Token(), spiffe.WITCheck{Bundle: trust.Bundles.Bundle, Now: now}); err != nil {
		return nil, fmt.Errorf("server sent a token that does not verify: %w", err)
	}
	jwk, err := proof.MarshalJWK()
	if err != nil {
		return nil, err
	}
	return &Issued{ID: id, Token: svid.Token(), Key: jwk, NotAfter: svid.Expiry, issuedAt: now}, nil
}

// FetchWITSVID sends the caller's WIT-SVIDs at once and again whenever one is
// renewed or the rules change: of all its identities, or of the one it names.
// Workload API 7.2.1.
func (s *Service) FetchWITSVID(req *workloadpb.WITSVIDRequest, stream grpc.ServerStreamingServer[workloadpb.WITSVIDResponse]) error {
	if s.wits == nil {
		return noWIT()
	}
	return s.follow(&follower{s: s, from: s.wits, only: req.GetSpiffeId(), stream: stream})
}

// noWIT is the answer where the profile is off. Workload API 7.
func noWIT() error {
	return status.Error(codes.Unimplemented, "the WIT profile is off; features: {wit: true} in kith.yaml turns it on")
}

// only is an evaluation with the identity of a name alone, if it is given.
func only(ev *Evaluation, name string) (*Evaluation, error) {
	if name == "" {
		return ev, nil
	}
	matches, err := matchesOf(ev, name)
	if err != nil {
		return nil, err
	}
	return &Evaluation{Attributes: ev.Attributes, Matches: matches, Outcomes: ev.Outcomes, digest: ev.digest}, nil
}

// witResponse is the full state of a lease: every identity that has a WIT-SVID,
// with its key. If none has, the error says whether it is worth trying again.
func witResponse(held []Held, _ Trust) (proto.Message, error) {
	out := &workloadpb.WITSVIDResponse{}
	given := make(hints)
	var failed error
	for _, h := range held {
		if h.Issued == nil {
			failed = worthTrying(failed, h.Err)
			continue
		}
		out.Svids = append(out.Svids, &workloadpb.WITSVID{
			SpiffeId: h.Issued.ID.String(), WitSvid: h.Issued.Token, WitSvidKey: string(h.Issued.Key), Hint: given.once(h.Match.Hint),
		})
	}
	if len(out.Svids) == 0 {
		return nil, nothing(failed)
	}
	return out, nil
}

// FetchWITBundles sends the keys of WIT-SVIDs at once and again whenever they
// change. Workload API 7.2.2: only a workload with an identity gets them.
func (s *Service) FetchWITBundles(_ *workloadpb.WITBundlesRequest, stream grpc.ServerStreamingServer[workloadpb.WITBundlesResponse]) error {
	if s.wits == nil {
		return noWIT()
	}
	return followTrust(s, stream, witBundles)
}

// witBundles is the keys of each trust domain and nothing else of its bundle; a
// trust domain without keys has an empty document, which trusts nobody.
func witBundles(trust Trust) (*workloadpb.WITBundlesResponse, error) {
	if err := trust.ready(); err != nil {
		return nil, err
	}
	out := &workloadpb.WITBundlesResponse{Bundles: make(map[string]string, len(trust.Bundles))}
	for td, bundle := range trust.Bundles {
		document, err := bundle.MarshalWITKeys()
		if err != nil {
			return nil, status.Errorf(codes.Internal, "bundle of %s: %v", td, err)
		}
		out.Bundles[td.ID().String()] = string(document)
	}
	return out, nil
}
