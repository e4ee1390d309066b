package kith

import (
	"context"

	"google.golang.org/grpc"

	"github.com/kith-id/kith/internal/policy"
)

// Authorizer is code of the service that looks at a request policy has allowed.
// An error denies it: the caller gets the same answer as from policy, with a
// decision id, and `kith why` tells operators the error's text. It cannot allow
// anything, as it is asked only about what is allowed. It is asked once for each
// request or stream, before the handler, from many goroutines at once;
// request.Path is the path that was decided.
type Authorizer func(ctx context.Context, caller Caller, request Request) error

// Option changes how requests are served.
type Option func(*serving)

// serving is what options say.
type serving struct {
	authorizers []Authorizer
	grpc        []grpc.ServerOption
}

// WithAuthorizer adds a check of the service's own on top of policy. With
// several, all must agree.
func WithAuthorizer(authorize Authorizer) Option {
	return func(s *serving) { s.authorizers = append(s.authorizers, authorize) }
}

func servingOf(options []Option) serving {
	var s serving
	for _, option := range options {
		option(&s)
	}
	return s
}

// check is what one request must pass after policy has allowed it.
type check struct {
	ctx         context.Context // the request's own
	authorizers []Authorizer
	exact       bool // the path is dispatched as it was sent, so it must be in normal form
}

// check is nil when the service has none.
func (s *serving) check(ctx context.Context) *check {
	if len(s.authorizers) == 0 {
		return nil
	}
	return &check{ctx: ctx, authorizers: s.authorizers}
}

// narrow makes a denial of d where a check says so.
func (c *check) narrow(peer *Peer, request *Request, d *Decision, verdict *policy.Decision) {
	if c.exact && d.Path != request.Path {
		*verdict = policy.Decision{Reason: policy.PathNotCanonical, Revision: d.Revision}
		*d = Decision{Reason: verdict.Reason.String(), Revision: d.Revision}
		return
	}
	asked := *request
	asked.Path = d.Path
	for _, authorize := range c.authorizers {
		err := authorize(c.ctx, Caller{Peer: peer, Decision: *d}, asked)
		if err == nil {
			continue
		}
		*verdict = policy.Decision{
			Reason: policy.OwnCheck, Revision: d.Revision,
			Near: policy.NearMiss{Rule: d.Rule, Field: policy.FieldCheck, Want: "passed", Got: err.Error()},
		}
		*d = Decision{Reason: verdict.Reason.String(), Revision: d.Revision, Path: d.Path}
		return
	}
}
