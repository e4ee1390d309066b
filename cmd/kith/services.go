package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/pb"
)

// servicesVerb lists and edits services.
func (a *app) servicesVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "services [NAME]", Aliases: []string{"service"}, Short: "list, add, edit and remove services",
	}
	list := a.servicesList()
	cmd.AddCommand(list, a.servicesAdd(), a.servicesEdit(), a.servicesShow(), a.servicesRemove())
	return listByDefault(cmd, list)
}

// serviceView is a service for machines.
type serviceView struct {
	Name       string   `json:"name"`
	Protocol   string   `json:"protocol"`
	Identities []string `json:"identities"`
	RunAs      []string `json:"run_as,omitempty"`
	Static     []string `json:"endpoints,omitempty"`
	Live       []string `json:"live"`
	Team       string   `json:"team,omitempty"`
	Owner      string   `json:"owner,omitempty"`

	Proof *proofView `json:"proof,omitempty"`
}

// proofView is how callers of a service prove each request, for machines.
type proofView struct {
	Audience string `json:"audience"`
	Accept   string `json:"accept,omitempty"`
	Via      string `json:"via,omitempty"`
	CA       string `json:"ca,omitempty"`
}

func proofOf(s *pb.Service) *proofView {
	p := s.GetProof()
	if p == nil {
		return nil
	}
	return &proofView{p.GetAudience(), p.GetAccept(), p.GetVia(), p.GetCa()}
}

// String is the proof in one word.
func (p *proofView) String() string {
	if p == nil {
		return "-"
	}
	out := p.Audience
	if p.Accept != "" {
		out += "," + p.Accept
	}
	if p.Via != "" {
		out += ",via=" + p.Via
	}
	return out
}

func (a *app) servicesList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [NAME]", Short: "list services and where they answer", Args: atMost(1),
		Example: "  kith services list\n  kith services list -o json",
	}
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		objects, err := a.someObjects(cmd.Context(), "service", args)
		if err != nil {
			return err
		}
		live, err := a.liveEndpoints(cmd.Context())
		if err != nil {
			return err
		}
		views := []serviceView{}
		proven := slices.ContainsFunc(objects, func(o *pb.Object) bool { return o.GetService().GetProof() != nil })
		t := table{head: []string{"NAME", "PROTOCOL", "IDENTITIES", "RUN AS", "ENDPOINTS", "OWNER"}, empty: "no services"}
		if proven { // few installations have a load balancer in between
			t.head = append(t.head, "PROOF")
		}
		for _, o := range objects {
			s := o.GetService()
			at := live[s.GetName()]
			if at == nil {
				at = []string{}
			}
			views = append(views, serviceView{s.GetName(), protocol(s), s.GetIdentities(), s.GetRunAs(), s.GetEndpoints(), at, s.GetTeam(), s.GetOwner(), proofOf(s)})
			row := []string{s.GetName(), protocol(s), dash(s.GetIdentities()), dash(s.GetRunAs()), dash(at), s.GetOwner()}
			if proven {
				row = append(row, proofOf(s).String())
			}
			t.rows = append(t.rows, row)
		}
		t.values = views
		return a.print(*f, t)
	}
	return cmd
}

// liveEndpoints is where each service answers now.
func (a *app) liveEndpoints(ctx context.Context) (map[string][]string, error) {
	s, err := a.serverStatus(ctx)
	if err != nil {
		return nil, err
	}
	live := make(map[string][]string)
	for _, entry := range s.GetDirectory() {
		for _, e := range entry.GetEndpoints() {
			live[entry.GetService()] = append(live[entry.GetService()], e.GetAddress())
		}
	}
	return live, nil
}

func protocol(s *pb.Service) string {
	if s.GetProtocol() == "" {
		return "http"
	}
	return s.GetProtocol()
}

// dash joins words, "-" for none.
func dash(words []string) string {
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, ",")
}

// serviceFlags are the fields of a service that add and edit can set.
type serviceFlags struct {
	protocol                     string
	identities, runAs, endpoints []string
	encodedSlash, doubleSlash    bool
	mode, team                   string
	audience, accept, via, ca    string
}

func addServiceFlags(cmd *cobra.Command) *serviceFlags {
	f := &serviceFlags{}
	flags := cmd.Flags()
	flags.StringVar(&f.protocol, "protocol", "http", "http, grpc or tcp")
	flags.StringSliceVar(&f.identities, "identity", nil, "IDs that are this service, as /vms/orders")
	flags.StringSliceVar(&f.runAs, "run-as", nil, "users (orders), uids (1000) or groups (%ops) that may claim the name")
	flags.StringSliceVar(&f.endpoints, "endpoint", nil, "fixed host:port addresses, beside those that register themselves")
	flags.BoolVar(&f.encodedSlash, "keep-encoded-slash", false, "match %2f as it was sent instead of refusing it")
	flags.BoolVar(&f.doubleSlash, "keep-double-slash", false, "match // as it was sent instead of refusing it")
	flags.StringVar(&f.mode, "mode", "enforce", "enforce, or observe: decide and report, deny only what the platform denies")
	flags.StringVar(&f.team, "team", "", "whose operators may change it and the rules to it")
	flags.StringVar(&f.audience, "audience", "", "behind a load balancer that ends mutual TLS: whom proofs of requests are for, as https://orders.acme.example; empty for none")
	flags.StringVar(&f.accept, "accept", "", "with --audience: the kind of proof that counts, signature or wpt; empty for either")
	flags.StringVar(&f.via, "via", "", "with --audience: the load balancer that callers go through, as https://lb.acme.example")
	flags.StringVar(&f.ca, "via-ca", "", "with --via: file with the certificates, in PEM, that it is verified by in place of the web's")
	complete(cmd, "accept", "signature", "wpt")
	complete(cmd, "mode", "enforce", "observe")
	complete(cmd, "protocol", "http", "grpc", "tcp")
	return f
}

// set copies the flags that were given into s.
func (f *serviceFlags) set(cmd *cobra.Command, s *pb.Service) error {
	changed := func(name string) bool { return cmd.Flags().Changed(name) }
	if changed("protocol") || s.GetProtocol() == "" {
		s.Protocol = f.protocol
	}
	if changed("identity") {
		s.Identities = f.identities
	}
	if changed("run-as") {
		s.RunAs = f.runAs
	}
	if changed("endpoint") {
		s.Endpoints = f.endpoints
	}
	if changed("mode") {
		if s.Mode = f.mode; f.mode == "enforce" {
			s.Mode = ""
		}
	}
	if changed("team") {
		s.Team = f.team
	}
	if changed("keep-encoded-slash") || changed("keep-double-slash") {
		if s.GetPaths() == nil {
			s.Paths = &pb.PathOptions{}
		}
		if changed("keep-encoded-slash") {
			s.Paths.KeepEncodedSlash = f.encodedSlash
		}
		if changed("keep-double-slash") {
			s.Paths.KeepDoubleSlash = f.doubleSlash
		}
	}
	return f.setProof(changed, s)
}

func (f *serviceFlags) setProof(changed func(string) bool, s *pb.Service) error {
	if changed("audience") && f.audience == "" {
		s.Proof = nil
		return nil
	}
	if !slices.ContainsFunc([]string{"audience", "accept", "via", "via-ca"}, changed) {
		return nil
	}
	if s.GetProof() == nil {
		s.Proof = &pb.ServiceProof{}
	}
	if changed("audience") {
		s.Proof.Audience = f.audience
	}
	if changed("accept") {
		s.Proof.Accept = f.accept
	}
	if changed("via") {
		s.Proof.Via = f.via
	}
	if changed("via-ca") {
		s.Proof.Ca = ""
		if f.ca != "" {
			text, err := os.ReadFile(f.ca)
			if err != nil {
				return fmt.Errorf("--via-ca: %w", err)
			}
			s.Proof.Ca = string(text)
		}
	}
	return nil
}

func (a *app) servicesAdd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "add NAME", Short: "add a service", Args: exactly(1),
		Example: `  kith services add orders --identity /vms/orders --run-as orders
  kith services add postgres --identity /vms/postgres --protocol tcp --endpoint 10.0.0.7:8443`,
	}
	fields, f := addServiceFlags(cmd), addChangeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s := &pb.Service{Name: args[0], Owner: ownerCLI}
		if err := fields.set(cmd, s); err != nil {
			return err
		}
		if len(s.GetIdentities()) == 0 {
			if !a.dev(cmd.Context()) {
				return usagef(cmd, "service %s: say which IDs it is, as in --identity /vms/%s", s.GetName(), s.GetName())
			}
			s.Identities = []string{"/dev/" + s.GetName()}
		}
		return a.change(cmd.Context(), f, &pb.ApplyRequest{
			Put: []*pb.Object{{Kind: &pb.Object_Service{Service: s}}}, Owner: ownerCLI, CreateOnly: true,
		})
	}
	return cmd
}

func (a *app) servicesEdit() *cobra.Command {
	cmd := &cobra.Command{
		Use: "edit NAME", Short: "change fields of a service; those not given stay", Args: exactly(1),
		Example: "  kith services edit orders --run-as orders,%ops --dry-run\n" +
			"  kith services edit orders --audience https://orders.acme.example --accept signature --via https://lb.acme.example",
	}
	fields, f := addServiceFlags(cmd), addChangeFlags(cmd)
	cmd.ValidArgsFunction = a.completeNames("service")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		objects, err := a.objects(cmd.Context(), "service", args[0])
		if err != nil {
			return err
		}
		if len(objects) == 0 {
			return a.unknown(cmd.Context(), "service", args[0])
		}
		s := objects[0].GetService()
		if err := fields.set(cmd, s); err != nil {
			return err
		}
		if s.GetOwner() == "kith" {
			s.Owner = ownerCLI // who edits what dev declared takes it over
		}
		return a.change(cmd.Context(), f, &pb.ApplyRequest{
			Put: []*pb.Object{{Kind: &pb.Object_Service{Service: s}}}, Owner: s.GetOwner(),
		})
	}
	return cmd
}

func (a *app) servicesShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NAME", Short: "print a service as YAML, ready for kith apply", Args: exactly(1),
		Example: "  kith services show orders",
	}
	cmd.ValidArgsFunction = a.completeNames("service")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.show(cmd.Context(), "service", args[0]) }
	return cmd
}

func (a *app) servicesRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use: "remove NAME...", Aliases: []string{"rm", "delete"}, Args: atLeast(1),
		Short:   "remove services that no rule names",
		Example: "  kith services remove orders --dry-run",
	}
	f := addChangeFlags(cmd)
	cmd.ValidArgsFunction = a.completeNames("service")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.remove(cmd.Context(), f, "service", args) }
	return cmd
}
