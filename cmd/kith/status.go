package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// statusVerb shows the server, the agent of this host and what outage they survive.
func (a *app) statusVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "show the server, the agents and the outage they survive", Args: atMost(0),
		Example: "  kith status\n  kith status -o json",
	}
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		server, serverErr := a.serverStatus(cmd.Context())
		if serverErr != nil && a.far.address != "" {
			return serverErr
		}
		var agent *pb.AgentStatus // of this host: not what was asked with --server
		var agentErr error
		if a.far.address == "" {
			agent, agentErr = a.agentStatus(cmd.Context())
		}
		if serverErr != nil && agentErr != nil {
			err := fmt.Errorf("neither a server nor an agent answers here (%s; %s)", a.paths.AdminSocket, a.paths.AgentSocket)
			return fault.Hint(err, "kith dev (to try it here); kith doctor says what is missing")
		}
		var nodes []*pb.NodeInfo
		if serverErr == nil {
			var err error
			if nodes, err = a.nodeInfos(cmd.Context()); err != nil {
				return err
			}
		}
		if *f != asTable {
			return a.print(*f, table{values: viewStatus(server, agent, nodes)})
		}
		if serverErr == nil {
			if err := a.printServerStatus(server, nodes); err != nil {
				return err
			}
		}
		if agent != nil {
			return a.printAgentStatus(agent)
		}
		return nil
	}
	return cmd
}

func (a *app) serverStatus(ctx context.Context) (*pb.StatusResponse, error) {
	var reply *pb.StatusResponse
	err := a.withAdmin(ctx, func(ctx context.Context, admin pb.AdminClient) (err error) {
		reply, err = admin.Status(ctx, &pb.StatusRequest{})
		return err
	})
	return reply, err
}

func (a *app) agentStatus(ctx context.Context) (*pb.AgentStatus, error) {
	var reply *pb.AgentStatus
	err := a.withAgent(ctx, func(ctx context.Context, agent pb.InspectionClient) (err error) {
		reply, err = agent.Status(ctx, &pb.AgentStatusRequest{})
		return err
	})
	return reply, err
}

// dev says whether the server of this host is a kith dev.
func (a *app) dev(ctx context.Context) bool {
	s, err := a.serverStatus(ctx)
	return err == nil && s.GetDev()
}

// statusView is the status for machines.
type statusView struct {
	Server *serverView `json:"server,omitempty"`
	Agent  *agentView  `json:"agent,omitempty"`
	Nodes  []nodeView  `json:"nodes,omitempty"`
}

type serverView struct {
	Version       string   `json:"version"`
	TrustDomain   string   `json:"trust_domain"`
	Dev           bool     `json:"dev"`
	Revision      uint64   `json:"revision"`
	Store         string   `json:"store"`
	Nodes         uint32   `json:"nodes"`
	Connected     uint32   `json:"nodes_connected"`
	Services      uint32   `json:"services"`
	Rules         uint32   `json:"rules"`
	IdentityRules uint32   `json:"identity_rules"`
	Address       string   `json:"address"`
	AdminAddress  string   `json:"admin_address,omitempty"`
	Pin           string   `json:"pin"`
	Metrics       string   `json:"metrics_address,omitempty"`
	Started       int64    `json:"started_unix"`
	RootExpires   int64    `json:"root_expires_unix"`
	CAExpires     int64    `json:"issuing_ca_expires_unix"`
	JournalUsed   float64  `json:"journal_used"`
	Alarms        []string `json:"alarms,omitempty"`
}

type agentView struct {
	Version      string `json:"version"`
	TrustDomain  string `json:"trust_domain"`
	Node         string `json:"node"`
	Class        string `json:"class"`
	Server       string `json:"server"`
	Connected    bool   `json:"connected"`
	Revision     uint64 `json:"revision"`
	Workloads    uint32 `json:"workloads"`
	Points       uint32 `json:"enforcement_points"`
	NodeExpires  int64  `json:"node_svid_expires_unix"`
	SkewMS       int64  `json:"clock_skew_ms"`
	LastContact  int64  `json:"last_contact_unix"`
	OutageBudget int64  `json:"outage_budget_seconds"`
	LastError    string `json:"last_error,omitempty"`
}

func viewStatus(s *pb.StatusResponse, g *pb.AgentStatus, nodes []*pb.NodeInfo) statusView {
	var v statusView
	if s != nil {
		v.Server = &serverView{
			s.GetVersion(), s.GetTrustDomain(), s.GetDev(), s.GetRevision(), s.GetStore(), s.GetNodes(), s.GetNodesConnected(),
			s.GetServices(), s.GetRules(), s.GetIdentityRules(), s.GetAddress(), s.GetAdminAddress(), s.GetPin(), s.GetMetricsAddress(), s.GetStartedUnix(),
			s.GetRootExpiresUnix(), s.GetIssuingCaExpiresUnix(), s.GetJournalUsed(), s.GetAlarms(),
		}
	}
	if g != nil {
		v.Agent = &agentView{
			g.GetVersion(), g.GetTrustDomain(), g.GetNode(), g.GetClass(), g.GetServer(), g.GetConnected(), g.GetRevision(),
			g.GetWorkloads(), g.GetEnforcementPoints(), g.GetNodeSvidExpiresUnix(), g.GetClockSkewNano() / 1e6,
			g.GetLastContactUnix(), g.GetOutageBudgetSeconds(), g.GetLastError(),
		}
	}
	for _, n := range nodes {
		v.Nodes = append(v.Nodes, viewNode(n))
	}
	return v
}

func (a *app) printServerStatus(s *pb.StatusResponse, nodes []*pb.NodeInfo) error {
	kind := ""
	if s.GetDev() {
		kind = " (kith dev: nothing is kept)"
	}
	fmt.Fprintf(a.stdout, "server %s%s\n", s.GetTrustDomain(), kind)
	err := facts(a.stdout,
		"  version", s.GetVersion(),
		"  up since", moment(s.GetStartedUnix()),
		"  address", s.GetAddress(),
		"  admins at", s.GetAdminAddress(),
		"  pin", s.GetPin(),
		"  store", s.GetStore(),
		"  revision", fmt.Sprint(s.GetRevision()),
		"  holds", fmt.Sprintf("%d services, %d rules, %d identity rules", s.GetServices(), s.GetRules(), s.GetIdentityRules()),
		"  nodes", fmt.Sprintf("%d, %d connected", s.GetNodes(), s.GetNodesConnected()),
		"  root ends in", a.rest(s.GetRootExpiresUnix()),
		"  issuing CA ends in", a.rest(s.GetIssuingCaExpiresUnix()),
		"  journal used", fmt.Sprintf("%.0f %%", s.GetJournalUsed()*100),
		"  metrics", s.GetMetricsAddress(),
	)
	if err != nil {
		return err
	}
	for _, alarm := range s.GetAlarms() {
		fmt.Fprintf(a.stdout, "  alarm: %s\n", alarm)
	}
	for _, n := range nodes {
		fmt.Fprintf(a.stdout, "node %s: %s, class %s, revision %d, SVID ends in %s\n",
			n.GetName(), nodeState(n), n.GetClass(), n.GetRevision(), a.rest(n.GetSvidExpiresUnix()))
	}
	return nil
}

func (a *app) printAgentStatus(g *pb.AgentStatus) error {
	link := "connected"
	if !g.GetConnected() {
		link = "away since " + moment(g.GetLastContactUnix())
	}
	budget := "no SVID has been issued yet"
	if g.GetOutageBudgetSeconds() > 0 {
		budget = short(time.Duration(g.GetOutageBudgetSeconds())*time.Second) + " until the first SVID ends without the server"
	}
	fmt.Fprintf(a.stdout, "agent %s\n", g.GetNode())
	return facts(a.stdout,
		"  version", g.GetVersion(),
		"  class", g.GetClass(),
		"  server", fmt.Sprintf("%s, %s", g.GetServer(), link),
		"  revision", fmt.Sprint(g.GetRevision()),
		"  serves", fmt.Sprintf("%d workloads, %d enforcement points", g.GetWorkloads(), g.GetEnforcementPoints()),
		"  node SVID ends in", a.rest(g.GetNodeSvidExpiresUnix()),
		"  outage budget", budget,
		"  clock", short(time.Duration(g.GetClockSkewNano()).Abs())+" off the server's",
		"  last error", g.GetLastError(),
	)
}
