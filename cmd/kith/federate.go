package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

// federateLimit bounds a refresh: an endpoint may take its time to answer.
const federateLimit = 45 * time.Second

// federateVerb makes and ends relationships with other trust domains.
func (a *app) federateVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "federate [TRUST_DOMAIN]", Short: "trust another trust domain, and be trusted by it",
		Long: `Accept the SVIDs of another trust domain by the bundle that its endpoint gives.
What its workloads may do is for rules that name them: from: spiffe://other.example/web.
The other side does the same the other way round; kith federate bundle prints what
it needs.`,
	}
	list := a.federateList()
	cmd.AddCommand(list, a.federateAdd(), a.federateGet(), a.federateDelete(), a.federateRefresh(), a.federateBundle())
	return listByDefault(cmd, list)
}

// withFederation asks the server about federation.
func (a *app) withFederation(ctx context.Context, ask func(context.Context, pb.FederationAdminClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, federateLimit)
	defer cancel()
	return a.streamServer(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		return ask(ctx, pb.NewFederationAdminClient(conn))
	})
}

func (a *app) federations(ctx context.Context, name string) ([]*pb.FederationInfo, error) {
	var reply *pb.ListFederationsResponse
	err := a.withFederation(ctx, func(ctx context.Context, server pb.FederationAdminClient) (err error) {
		reply, err = server.ListFederations(ctx, &pb.ListFederationsRequest{TrustDomain: name})
		return err
	})
	return reply.GetFederations(), err
}

// federationView is a relationship for machines.
type federationView struct {
	TrustDomain string `json:"trust_domain"`
	URL         string `json:"url"`
	Profile     string `json:"profile"`
	EndpointID  string `json:"endpoint_id,omitempty"`
	Owner       string `json:"owner,omitempty"`
	Held        bool   `json:"bundle"`
	Revoked     bool   `json:"revoked"`
	Sequence    uint64 `json:"sequence"`
	Roots       uint32 `json:"roots"`
	JWTKeys     uint32 `json:"jwt_keys"`
	Changed     int64  `json:"changed_unix,omitempty"`
	Checked     int64  `json:"checked_unix,omitempty"`
	Fetched     int64  `json:"fetched_unix,omitempty"`
	Next        int64  `json:"next_unix,omitempty"`
	Error       string `json:"error,omitempty"`
}

func viewFederation(f *pb.FederationInfo) federationView {
	r := f.GetFederation()
	return federationView{
		TrustDomain: r.GetTrustDomain(), URL: r.GetUrl(), Profile: r.GetProfile(), EndpointID: r.GetEndpointId(), Owner: r.GetOwner(),
		Held: f.GetHeld(), Revoked: f.GetRevoked(), Sequence: f.GetSequence(), Roots: f.GetRoots(), JWTKeys: f.GetJwtKeys(),
		Changed: f.GetChangedUnix(), Checked: f.GetCheckedUnix(), Fetched: f.GetFetchedUnix(), Next: f.GetNextUnix(), Error: f.GetError(),
	}
}

// state is one word for how trust in the other side stands.
func (v federationView) state() string {
	switch {
	case v.Revoked:
		return "revoked"
	case v.Held && v.Error != "":
		return "stale"
	case v.Held:
		return "trusted"
	case v.Error != "":
		return "failing"
	default:
		return "waiting"
	}
}

func (v federationView) sequence() string {
	if !v.Held {
		return "-"
	}
	return strconv.FormatUint(v.Sequence, 10)
}

func (a *app) federateList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [TRUST_DOMAIN]", Short: "list trusted trust domains and how fetching their bundles goes", Args: atMost(1),
		Long: `List relationships. STATE is trusted; stale: the bundle held is in force, a newer one
could not be fetched; revoked: the other side has taken all its keys back, and its
SVIDs are refused; waiting or failing: there is no bundle yet, so nothing is accepted.`,
		Example: "  kith federate list\n  kith federate list -o json",
	}
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := ""
		if len(args) == 1 {
			name = args[0]
		}
		list, err := a.federations(cmd.Context(), name)
		if err != nil {
			return err
		}
		views := []federationView{}
		t := table{
			head:  []string{"TRUST DOMAIN", "STATE", "PROFILE", "SEQUENCE", "FETCHED", "NEXT", "URL", "ERROR"},
			empty: "no other trust domain is trusted; kith federate add --help",
		}
		for _, one := range list {
			v := viewFederation(one)
			views = append(views, v)
			t.rows = append(t.rows, []string{
				v.TrustDomain, v.state(), v.Profile, v.sequence(), moment(v.Fetched), a.rest(v.Next), v.URL, cmp.Or(v.Error, "-"),
			})
		}
		t.values = views
		return a.print(*f, t)
	}
	return cmd
}

func (a *app) federateGet() *cobra.Command {
	cmd := &cobra.Command{
		Use: "get TRUST_DOMAIN", Short: "show a relationship as YAML, ready for kith apply", Args: exactly(1),
		Example: "  kith federate get other.example > other.yaml",
	}
	cmd.ValidArgsFunction = a.completeNames(string(registry.KindFederation))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.show(cmd.Context(), string(registry.KindFederation), args[0])
	}
	return cmd
}

func (a *app) federateAdd() *cobra.Command {
	rel := &pb.Federation{Owner: ownerCLI}
	var bundle string
	cmd := &cobra.Command{
		Use: "add TRUST_DOMAIN --url URL", Short: "accept the SVIDs of another trust domain", Args: exactly(1),
		Long: `Accept the SVIDs of a trust domain by the bundle at URL, from the first fetch on.
Profile https_web knows the endpoint by a certificate of the web; https_spiffe by an
SVID, for which --endpoint-id and, if it is of the same trust domain, a first bundle
are needed. kith federate bundle on the other side prints all of it.`,
		Example: `  kith federate add other.example --url https://bundles.other.example/
  kith federate add other.example --url https://10.0.0.7:8443/ --profile https_spiffe \\
    --endpoint-id spiffe://other.example/kith/federation --bundle other.json`,
	}
	flags := cmd.Flags()
	flags.StringVar(&rel.Url, "url", "", "https URL of the bundle endpoint (required)")
	flags.StringVar(&rel.Profile, "profile", string(registry.HTTPSWeb), "https_web or https_spiffe")
	flags.StringVar(&rel.EndpointId, "endpoint-id", "", "https_spiffe: the SPIFFE ID that the endpoint shows")
	flags.StringVar(&bundle, "bundle", "", "file with a first bundle, in force at once; - for standard input")
	complete(cmd, "profile", string(registry.HTTPSWeb), string(registry.HTTPSSPIFFE))
	f := addChangeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		rel.TrustDomain = args[0]
		if rel.GetUrl() == "" {
			return usagef(cmd, "say where its bundle is: --url https://…")
		}
		if bundle != "" {
			var err error
			if rel.Bundle, err = a.readBundle(bundle); err != nil {
				return err
			}
		}
		err := a.change(cmd.Context(), f, &pb.ApplyRequest{
			Put: []*pb.Object{{Kind: &pb.Object_Federation{Federation: rel}}}, Owner: ownerCLI, CreateOnly: true,
		})
		if fault.Is(err, fault.Conflict) {
			return fault.Hint(err, "kith federate delete %s first, or change it by kith apply", rel.GetTrustDomain())
		}
		if err != nil || f.dryRun || *f.format != asTable {
			return err
		}
		return a.firstFetch(cmd.Context(), rel.GetTrustDomain())
	}
	return cmd
}

// firstFetch says whether the relationship works, as who made it wants to know.
func (a *app) firstFetch(ctx context.Context, name string) error {
	info, err := a.refresh(ctx, name)
	if err != nil {
		return err
	}
	v := viewFederation(info)
	if v.Error != "" {
		fmt.Fprintf(a.stderr, "warning: its bundle could not be fetched: %s\n", visible(v.Error))
		fmt.Fprintf(a.stderr, "hint: %s\n", visible(cmp.Or(info.GetHint(), "it is tried again by itself; kith federate refresh "+name+" does so now")))
		return nil
	}
	fmt.Fprintf(a.stdout, "%s is %s: sequence %d, %d roots, %d keys for tokens\n", v.TrustDomain, v.state(), v.Sequence, v.Roots, v.JWTKeys)
	return nil
}

// readBundle reads a bundle document, bounded.
func (a *app) readBundle(path string) ([]byte, error) {
	from := a.stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, fault.Wrap(fault.NotFound, err)
		}
		defer file.Close()
		from = file
	}
	text, err := io.ReadAll(io.LimitReader(from, registry.MaxFederatedBundle+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(text) > registry.MaxFederatedBundle {
		return nil, fault.Invalidf("%s: larger than %d bytes, so no bundle", path, registry.MaxFederatedBundle)
	}
	return text, nil
}

func (a *app) refresh(ctx context.Context, name string) (*pb.FederationInfo, error) {
	var info *pb.FederationInfo
	err := a.withFederation(ctx, func(ctx context.Context, server pb.FederationAdminClient) (err error) {
		info, err = server.RefreshFederation(ctx, &pb.RefreshFederationRequest{TrustDomain: name})
		return err
	})
	return info, err
}

func (a *app) federateRefresh() *cobra.Command {
	cmd := &cobra.Command{
		Use: "refresh TRUST_DOMAIN", Short: "fetch a trust domain's bundle now", Args: exactly(1),
		Long: `Fetch a trust domain's bundle now instead of at the next poll. It ends with an error
if that fails; the bundle held is in force all the same.`,
		Example: "  kith federate refresh other.example",
	}
	cmd.ValidArgsFunction = a.completeNames(string(registry.KindFederation))
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		info, err := a.refresh(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		v := viewFederation(info)
		if *f != asTable {
			if err := a.print(*f, table{values: v}); err != nil {
				return err
			}
		}
		if v.Error != "" {
			return fault.Hint(fmt.Errorf("fetch the bundle of %s: %s", args[0], v.Error), "%s", cmp.Or(info.GetHint(), "kith federate list "+args[0]))
		}
		if *f == asTable {
			fmt.Fprintf(a.stdout, "%s is %s: sequence %d, %d roots, %d keys for tokens\n", v.TrustDomain, v.state(), v.Sequence, v.Roots, v.JWTKeys)
		}
		return nil
	}
	return cmd
}

func (a *app) federateDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete TRUST_DOMAIN...", Aliases: []string{"rm", "remove"}, Args: atLeast(1),
		Short: "trust a trust domain no more, at once",
		Long: `End the relationship: the bundle is deleted everywhere, the SVIDs of the trust domain
are refused, and connections with its workloads are cut.`,
		Example: "  kith federate delete other.example --dry-run\n  kith federate delete other.example",
	}
	f := addChangeFlags(cmd)
	cmd.ValidArgsFunction = a.completeNames(string(registry.KindFederation))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.remove(cmd.Context(), f, string(registry.KindFederation), args)
	}
	return cmd
}

func (a *app) federateBundle() *cobra.Command {
	cmd := &cobra.Command{
		Use: "bundle [TRUST_DOMAIN]", Short: "print this trust domain's bundle, and how the other side adds it", Args: atMost(1),
		Long: `Print the bundle of this trust domain as a SPIFFE bundle document (public keys only):
what the other side needs to know the endpoint by. How it adds this trust domain
goes to standard error. With a TRUST_DOMAIN, print the bundle held of that one.`,
		Example: "  kith federate bundle > acme.json\n  kith federate bundle other.example",
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var name string
		if len(args) == 1 {
			name = args[0]
		}
		var reply *pb.ShowBundleResponse
		err := a.withFederation(cmd.Context(), func(ctx context.Context, server pb.FederationAdminClient) (err error) {
			reply, err = server.ShowBundle(ctx, &pb.ShowBundleRequest{TrustDomain: name})
			return err
		})
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(a.stdout, "%s\n", reply.GetBundle().GetJwks()); err != nil {
			return err
		}
		if name == "" {
			a.sayHowToAdd(reply)
		}
		return nil
	}
	return cmd
}

// sayHowToAdd prints the other side's command.
func (a *app) sayHowToAdd(r *pb.ShowBundleResponse) {
	td := r.GetBundle().GetTrustDomain()
	switch {
	case r.GetSpiffeAddress() != "":
		fmt.Fprintf(a.stderr, "on the other side, with this bundle in a file:\n  kith federate add %s --url https://%s/ --profile https_spiffe --endpoint-id %s --bundle FILE\n",
			td, reachable(r.GetSpiffeAddress()), r.GetEndpointId())
	case r.GetWebAddress() != "":
		fmt.Fprintf(a.stderr, "on the other side:\n  kith federate add %s --url https://NAME_IN_THE_CERTIFICATE:%s/\n", td, portIn(r.GetWebAddress()))
	default:
		fmt.Fprintf(a.stderr, "warning: this server has no bundle endpoint, so the other side cannot fetch newer ones\nhint: server: {federation: {spiffe_listen: \":8443\"}} in its kith.yaml\n")
	}
}

// reachable names this host where an address is every one of it.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return net.JoinHostPort(host, port)
}

func portIn(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return "443"
	}
	return port
}
