package extauthz

import (
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
)

// policyOf is what a slice says, as the agent hands it over.
func policyOf(s *pb.Slice) Policy {
	out := Policy{Revision: s.GetRevision(), Log: s.GetLog()}
	set, err := policy.FromSlice(s)
	if err != nil {
		out.Unread = err
		return out
	}
	out.Book = policy.NewBook(set.TrustDomain)
	for _, svc := range set.Services {
		out.Book.PutService(svc)
	}
	for _, r := range set.Rules {
		out.Book.PutRule(r)
	}
	for _, svc := range s.GetServices() {
		out.Services = append(out.Services, svc.GetName())
	}
	for _, m := range s.GetProviders() {
		provider, err := usertoken.FromPB(m)
		if err != nil {
			out.Unread = err
		}
		out.Providers = append(out.Providers, provider)
	}
	return out
}
