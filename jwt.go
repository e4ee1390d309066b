package kith

import (
	"context"
	"fmt"

	"google.golang.org/grpc/metadata"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

const (
	fetchJWTSVID    = "/SpiffeWorkloadAPI/FetchJWTSVID"
	validateJWTSVID = "/SpiffeWorkloadAPI/ValidateJWTSVID"
)

// JWTSVID fetches a JWT-SVID of this program for an audience, for a callee that
// takes no certificate. The agent keeps it and renews it ahead of need, so ask
// for it at each use: what is there comes at once, also while the server is
// away.
func (w *Workload) JWTSVID(ctx context.Context, audience ...string) (*spiffe.JWTSVID, error) {
	answer := new(pb.JWTSVIDResponse)
	if err := w.conn.Invoke(secured(ctx), fetchJWTSVID, &pb.JWTSVIDRequest{Audience: audience}, answer); err != nil {
		return nil, agentError("fetch JWT-SVID", err)
	}
	if len(answer.GetSvids()) == 0 {
		return nil, fmt.Errorf("fetch JWT-SVID: the agent sent none")
	}
	first := answer.GetSvids()[0] // JWT-SVID profile of the Workload API: the default one
	svid, err := spiffe.ParseJWT(first.GetSvid())
	if err != nil {
		return nil, fmt.Errorf("JWT-SVID from the agent: %w", err)
	}
	if svid.ID.String() != first.GetSpiffeId() {
		return nil, fmt.Errorf("JWT-SVID from the agent is of %s, said to be of %q", svid.ID, first.GetSpiffeId())
	}
	svid.Hint = first.GetHint()
	return svid, nil
}

// ValidateJWT asks the agent whose a JWT-SVID is that somebody has shown to this
// program, which answers to the name audience. The error of one that is not
// good is fault.Invalid.
func (w *Workload) ValidateJWT(ctx context.Context, token, audience string) (*spiffe.JWTSVID, error) {
	answer := new(pb.ValidateJWTSVIDResponse)
	if err := w.conn.Invoke(secured(ctx), validateJWTSVID, &pb.ValidateJWTSVIDRequest{Audience: audience, Svid: token}, answer); err != nil {
		return nil, agentError("validate JWT-SVID", err)
	}
	svid, err := spiffe.ParseJWT(token)
	if err != nil {
		return nil, fmt.Errorf("validate JWT-SVID: %w", err)
	}
	if svid.ID.String() != answer.GetSpiffeId() {
		return nil, fmt.Errorf("validate JWT-SVID: it is of %s, the agent says of %q", svid.ID, answer.GetSpiffeId())
	}
	return svid, nil
}

// secured marks a call as one of the Workload API.
func secured(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, securityHeader, "true")
}
