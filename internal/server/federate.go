package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/federation"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

// ListFederations shows the relationship with a trust domain, or all.
func (s *Server) ListFederations(_ context.Context, trustDomain string) ([]*pb.FederationInfo, error) {
	snap := s.snap()
	names := slices.Sorted(maps.Keys(snap.federations))
	if trustDomain != "" {
		if _, here := snap.federations[trustDomain]; !here {
			return nil, noFederation(snap, trustDomain)
		}
		names = []string{trustDomain}
	}
	reports := s.exchange.poller.Reports()
	out := make([]*pb.FederationInfo, 0, len(names))
	for _, name := range names {
		rel := snap.federations[name]
		out = append(out, federationInfo(snap, rel, reports[rel.TrustDomain]))
	}
	return out, nil
}

// RefreshFederation fetches a trust domain's bundle now. Whoever calls waits for
// one attempt, which has its own limit.
func (s *Server) RefreshFederation(ctx context.Context, trustDomain string) (*pb.FederationInfo, error) {
	snap := s.snap()
	rel, here := snap.federations[trustDomain]
	if !here {
		return nil, noFederation(snap, trustDomain)
	}
	report, err := s.exchange.poller.Refresh(ctx, rel.TrustDomain)
	if err != nil {
		return nil, err
	}
	return federationInfo(s.snap(), rel, report), nil
}

func noFederation(snap *snapshot, name string) error {
	err := fault.NotFoundf("there is no federation with %q", name)
	if near := fault.Nearest(name, slices.Collect(maps.Keys(snap.federations))); near != "" {
		return fault.Hint(err, "did you mean %s?", near)
	}
	return fault.Hint(err, "kith federate list")
}

func federationInfo(snap *snapshot, rel registry.Federation, report federation.Report) *pb.FederationInfo {
	info := &pb.FederationInfo{
		Federation:  rel.PB(),
		CheckedUnix: unixOf(report.Checked), FetchedUnix: unixOf(report.Fetched), NextUnix: unixOf(report.Next),
	}
	if report.Err != nil {
		info.Error, info.Hint = report.Err.Error(), fault.HintOf(report.Err)
	}
	bundle, ok := snap.bundleOf(rel.TrustDomain)
	if !ok {
		return info
	}
	info.Held, info.Revoked = true, federation.Revoked(bundle)
	info.Sequence, info.Roots, info.JwtKeys = bundle.Sequence(), uint32(len(bundle.Roots())), uint32(len(bundle.JWTKeys()))
	info.ChangedUnix = unixOf(snap.bundles[rel.TrustDomain.String()].Changed)
	return info
}

// ShowBundle is the bundle of a trust domain, the own one for "", with what the
// other side must know to fetch it.
func (s *Server) ShowBundle(_ context.Context, trustDomain string) (*pb.ShowBundleResponse, error) {
	snap := s.snap()
	if trustDomain == "" || trustDomain == snap.trustDomain.String() {
		document, err := s.ca.Bundle().Marshal()
		if err != nil {
			return nil, fmt.Errorf("own bundle: %w", err)
		}
		out := &pb.ShowBundleResponse{Bundle: &pb.Bundle{TrustDomain: snap.trustDomain.String(), Jwks: document}}
		out.SpiffeAddress, out.WebAddress = s.BundleAddrs()
		if s.exchange.shown != nil {
			out.EndpointId = s.exchange.shown.id.String()
		}
		return out, nil
	}
	if _, here := snap.federations[trustDomain]; !here {
		return nil, noFederation(snap, trustDomain)
	}
	held, ok := snap.bundles[trustDomain]
	if !ok {
		return nil, fault.Hint(fault.NotFoundf("no bundle of %s has come yet", trustDomain), "kith federate refresh %s", trustDomain)
	}
	return &pb.ShowBundleResponse{Bundle: &pb.Bundle{TrustDomain: trustDomain, Jwks: held.Document}}, nil
}

// federationAlarms are the sentences of kith status about other trust domains.
func (s *Server) federationAlarms() []string {
	var out []string
	snap := s.snap()
	reports := s.exchange.poller.Reports()
	for _, name := range slices.Sorted(maps.Keys(snap.federations)) {
		td := snap.federations[name].TrustDomain
		held, ok := snap.bundleOf(td)
		if ok && federation.Revoked(held) {
			out = append(out, fmt.Sprintf("%s has revoked all its keys (sequence %d): its SVIDs are refused", name, held.Sequence()))
		}
		report := reports[td]
		switch {
		case report.Err == nil:
		case !ok:
			out = append(out, fmt.Sprintf("no bundle of %s yet: %v", name, report.Err))
		default:
			out = append(out, fmt.Sprintf("bundle of %s not fetched%s, the one held is in force: %v", name, since(report, s.cfg.Now()), report.Err))
		}
	}
	return out
}

// since is for how long nothing was fetched, where that is known.
func since(report federation.Report, now time.Time) string {
	if report.Fetched.IsZero() {
		return ""
	}
	return " for " + now.Sub(report.Fetched).Round(time.Second).String()
}
