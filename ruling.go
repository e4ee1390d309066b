package kith

import (
	"fmt"
	"slices"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/spiffe"
)

// ruling is the policy in force: immutable, swapped as a whole. Without a table
// it denies everything, and so does the zero ruling.
type ruling struct {
	table    *policy.Table
	revision uint64
	service  string
	protocol Protocol
	paths    policy.PathOptions
	proof    policy.Proof // that the own service demands
	node     string
	dev      bool
	tokens   *usertoken.Checker // of end users

	externals []*external // asked about what the table allows
	recording *policy.Recording
}

// rule puts a slice in force and returns the ack: the table is compiled aside,
// swapped, and every live exchange decided again before the ack is sent. A
// slice that cannot be enforced leaves a ruling that denies everything.
func (w *Workload) rule(slice *pb.Slice) *pb.PolicyAck {
	w.forget(slice)
	next, err := compileSlice(slice, w.cfg, w.keys)
	ack := &pb.PolicyAck{Revision: slice.GetRevision()}
	if err != nil {
		ack.Error = clip(err.Error(), maxReportText)
		next = &ruling{revision: slice.GetRevision(), service: next.service, protocol: next.protocol, proof: next.proof, node: slice.GetNode(), dev: slice.GetDev(), recording: next.recording}
		w.cfg.Log.Error("policy refused, everything is denied", "revision", slice.GetRevision(), "error", err)
	}
	if next.externals, err = w.externals.adopt(next.table); err != nil { // Compile has checked what can be
		ack.Error, next.table = clip(err.Error(), maxReportText), nil
		w.cfg.Log.Error("policy refused, everything is denied", "revision", slice.GetRevision(), "error", err)
	}
	w.policy.Store(takeOver(w.policy.Load(), next))
	if next.timed() {
		w.nudgeClock()
	}
	cut := w.live.decideAgain(w)
	w.nudgeExternals()
	w.first.policy()
	w.cfg.Log.Debug("policy in force", "revision", next.revision, "service", next.service, "cut", cut)
	return ack
}

// timed says whether what is allowed depends on the time: a token ends.
func (r *ruling) timed() bool { return r.table.Reads()&(policy.ReadsTime|policy.ReadsToken) != 0 }

// compileSlice makes a ruling of a slice. With an error it still says as much
// as it found out.
func compileSlice(slice *pb.Slice, cfg Config, keys map[string]*spiffe.JWKSet) (*ruling, error) {
	next := &ruling{revision: slice.GetRevision(), node: slice.GetNode(), dev: slice.GetDev(), recording: policy.RecordingFromPB(slice.GetLog())}
	set, err := policy.FromSlice(slice)
	if err != nil {
		return next, err
	}
	var own []string
	for _, service := range slice.GetServices() {
		own = append(own, service.GetName())
	}
	if !cfg.Serves || len(own) == 0 {
		return next, nil // a program that is no service: everything is denied, and that is right
	}
	if next.service, err = chooseService(own, cfg); err != nil {
		return next, err
	}
	service := set.Services[next.service]
	next.protocol, next.paths, next.proof = Protocol(service.Protocol.String()), service.Paths, service.Proof
	table, err := policy.Compile(set, next.service)
	if err != nil {
		return next, fmt.Errorf("policy of %s: %w", next.service, err)
	}
	providers, err := providersOf(slice, next.service)
	if err != nil {
		return next, err
	}
	next.table, next.tokens = table, usertoken.NewChecker(providers, keys)
	return next, nil
}

// chooseService picks whose policy decides here. An identity that belongs to
// several services must say which one it answers for; guessing could decide by
// the laxer one.
func chooseService(own []string, cfg Config) (string, error) {
	slices.Sort(own)
	switch {
	case cfg.Service != "" && slices.Contains(own, cfg.Service):
		return cfg.Service, nil
	case cfg.Service != "":
		return "", fault.Invalidf("this identity does not belong to service %q, but to %v", cfg.Service, own)
	case slices.Contains(own, cfg.As):
		return cfg.As, nil
	case len(own) == 1:
		return own[0], nil
	default:
		return "", fault.Hint(fault.Invalidf("this identity belongs to several services: %v", own), "say which one it answers for")
	}
}
