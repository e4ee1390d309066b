package workload

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/registry"
)

// subject is a workload that SVIDs are for: a process, or an object of a control
// plane that a broker refers to.
type subject interface {
	// evaluate says which identities it has by the rules of now.
	evaluate(ctx context.Context) (*Evaluation, error)
	// check says nil while it is who it was.
	check(ctx context.Context) error
	// named is what names it in a log.
	named() []any
	// advice is what to type to learn why it has no identity.
	advice() string
}

// localProcess is a subject that is a local process.
type localProcess struct {
	host Host
	peer attest.Peer
}

func (p localProcess) evaluate(ctx context.Context) (*Evaluation, error) {
	return p.host.Evaluate(ctx, p.peer)
}
func (p localProcess) check(context.Context) error { return p.host.Check(p.peer) }
func (p localProcess) named() []any                { return []any{"pid", p.peer.PID, "uid", p.peer.UID} }

func (p localProcess) advice() string { return fmt.Sprintf("kith why --pid %d says why", p.peer.PID) }

// evaluate finds the identities of a process.
func (s *Service) evaluate(ctx context.Context, peer attest.Peer) (*Evaluation, error) {
	return s.identify(ctx, localProcess{s.host, peer})
}

// identify finds a workload's identities; none is PermissionDenied, with what was
// found in the log and not in the answer.
func (s *Service) identify(ctx context.Context, of subject) (*Evaluation, error) {
	ev, err := of.evaluate(ctx)
	var unheard Unheard
	switch {
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	case errors.As(err, &unheard): // Workload Endpoint 6: PermissionDenied is for whoever has no identity
		return nil, status.Error(codes.Unavailable, unheard.Error())
	case err != nil:
		return nil, s.refuse(of, &Evaluation{}, err)
	case len(ev.Matches) == 0:
		return nil, s.refuse(of, ev, nil)
	}
	return ev, nil
}

// deny refuses a process.
func (s *Service) deny(peer attest.Peer, ev *Evaluation, err error) error {
	return s.refuse(localProcess{s.host, peer}, ev, err)
}

// refuse is the answer to a workload without an identity, or of which it is not known
// whether it has one.
func (s *Service) refuse(of subject, ev *Evaluation, err error) error {
	if away := new(attest.Away); errors.As(err, away) {
		if s.chatter.Allow() {
			s.log.Warn("workload not identified", append(of.named(), "error", err)...)
		}
		return status.Error(codes.Unavailable, "who the workload is cannot be found out now; the agent's log says why")
	}
	s.metrics.denied.Inc()
	if s.chatter.Allow() {
		closest := registry.Outcome{Detail: "there are no identity rules"}
		if c, ok := Closest(ev.Outcomes); ok {
			closest = c
		}
		s.log.Warn("workload has no identity", append(of.named(), "found", Found(ev.Attributes),
			"rule", closest.Rule, "reason", closest.Detail, "error", err)...)
	}
	return status.Error(codes.PermissionDenied, "no identity issued; "+of.advice())
}
