package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/oidc"
	"github.com/kith-id/kith/internal/pb"
)

// Beyond these, doctor says that somebody must act.
const (
	skewWarn   = 10 * time.Second
	skewBad    = 5 * time.Minute // certificates are not yet valid, or no more
	rootSoon   = 30 * 24 * time.Hour
	journalBad = 0.5
)

// doctorVerb looks for what is wrong and says what to do.
func (a *app) doctorVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor", Short: "look for what is wrong here, and say what to do", Args: noSuchVerb,
		Long: `Check kith.yaml, directories and sockets with their permissions, the agent and the
server of this host, whether the server can be reached, the clock, the kubelet if
kith.yaml names one, and what is about to expire. With --server: the admin SVID, and that server. Exit code 1 if
something must be mended.`,
		Example:     "  kith doctor\n  kith doctor -o json\n  kith doctor aws --as orders",
		Annotations: map[string]string{withoutConfig: ""},
	}
	f := outputFlag(cmd)
	for _, provider := range oidc.Providers() {
		cmd.AddCommand(a.doctorCloud(provider))
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d := &diagnosis{app: a, Findings: []finding{}}
		d.run(cmd.Context())
		if err := d.print(*f); err != nil {
			return err
		}
		if d.bad() {
			return exitError(1)
		}
		return nil
	}
	return cmd
}

// finding is the outcome of one check.
type finding struct {
	Check   string `json:"check"`
	Outcome string `json:"outcome"` // ok | warn | fail | absent
	Detail  string `json:"detail"`
	Do      string `json:"do,omitempty"`
}

// diagnosis collects findings in the order of the checks.
type diagnosis struct {
	app      *app
	Findings []finding
}

func (d *diagnosis) add(check, outcome, detail, do string) {
	d.Findings = append(d.Findings, finding{check, outcome, detail, do})
}

// fault adds a failed check with the error's own hint, or a given one.
func (d *diagnosis) fault(check string, err error, do string) {
	if hint := fault.HintOf(err); hint != "" {
		do = hint
	}
	d.add(check, "fail", err.Error(), do)
}

func (d *diagnosis) bad() bool {
	for _, f := range d.Findings {
		if f.Outcome == "fail" {
			return true
		}
	}
	return false
}

func (d *diagnosis) print(f format) error {
	if f != asTable {
		return d.app.print(f, table{values: d.Findings})
	}
	for _, one := range d.Findings {
		detail := strings.ReplaceAll(one.Detail, "\n", "\n         ")
		fmt.Fprintf(d.app.stdout, "%-6s  %s: %s\n", one.Outcome, one.Check, detail)
		if one.Do != "" {
			fmt.Fprintf(d.app.stdout, "        do: %s\n", one.Do)
		}
	}
	return nil
}

func (d *diagnosis) run(ctx context.Context) {
	if d.app.far.address != "" {
		d.admin()
		d.server(ctx)
		return
	}
	file := d.config()
	d.directory("run directory", d.app.paths.Run)
	d.directory("state directory", d.app.paths.State)
	agent := d.agent(ctx)
	server := d.server(ctx)
	if agent == nil && server == nil {
		d.add("kith", "fail", "neither a server nor an agent runs here", "kith dev (to try it here), kith server, or kith join <line> and kith agent")
	}
	d.reach(ctx, file, agent)
	d.kubelet(ctx, file.Agent.Kubernetes)
}

func (d *diagnosis) config() config.File {
	file, err := d.app.loadConfig()
	if err != nil {
		d.fault("configuration", err, "kith config check")
		return config.Default()
	}
	d.app.paths = d.app.paths.With(file)
	if _, err := os.Stat(d.app.paths.Config); err != nil {
		d.add("configuration", "ok", d.app.paths.Config+" is not there; every key has its default", "")
		return file
	}
	d.add("configuration", "ok", d.app.paths.Config, "")
	return file
}

// directory checks that nobody else can put something into ours.
func (d *diagnosis) directory(what, path string) {
	info, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		d.add(what, "absent", path+" is made at the first start", "")
	case err != nil:
		d.fault(what, err, "sudo ls -ld "+path)
	case !info.IsDir():
		d.add(what, "fail", path+" is not a directory", "rm "+path)
	case info.Mode().Perm()&0o022 != 0:
		d.add(what, "fail", fmt.Sprintf("%s can be written by others (mode %04o)", path, info.Mode().Perm()), "chmod go-w "+path)
	default:
		d.add(what, "ok", fmt.Sprintf("%s (mode %04o)", path, info.Mode().Perm()), "")
	}
}

func (d *diagnosis) agent(ctx context.Context) *pb.AgentStatus {
	path := d.app.paths.AgentSocket
	if _, err := os.Stat(path); os.IsNotExist(err) {
		d.add("agent", "absent", "no socket at "+path, "")
		return nil
	}
	g, err := d.app.agentStatus(ctx)
	if err != nil {
		d.fault("agent", err, "kith agent, or systemctl restart kith-agent")
		return nil
	}
	d.add("agent", "ok", fmt.Sprintf("node %s of %s, version %s", g.GetNode(), g.GetTrustDomain(), g.GetVersion()), "")
	if g.GetConnected() {
		d.add("agent's server", "ok", g.GetServer()+" is connected", "")
		d.clock(time.Duration(g.GetClockSkewNano()))
	} else {
		detail := fmt.Sprintf("%s is away since %s", g.GetServer(), moment(g.GetLastContactUnix()))
		if g.GetLastError() != "" {
			detail += ": " + g.GetLastError()
		}
		d.add("agent's server", "fail", detail, fmt.Sprintf("on the server: kith status; the outage budget left here is %s",
			short(time.Duration(g.GetOutageBudgetSeconds())*time.Second)))
	}
	d.providers(g.GetProviders())
	d.expiry("node SVID", g.GetNodeSvidExpiresUnix(), 5*time.Minute, "kith status; it is renewed by itself while the server answers")
	return g
}

// providers checks that the keys of user tokens are here.
func (d *diagnosis) providers(all []*pb.ProviderStatus) {
	for _, p := range all {
		what := "keys of provider " + p.GetName()
		switch {
		case p.GetKeys() == 0:
			d.add(what, "fail", "none, so its tokens are refused: "+p.GetError(), p.GetHint())
		case p.GetError() != "":
			d.add(what, "warn", fmt.Sprintf("%d, fetched %s, and not since: %s", p.GetKeys(), moment(p.GetFetchedUnix()), p.GetError()), p.GetHint())
		default:
			d.add(what, "ok", fmt.Sprintf("%d, fetched %s", p.GetKeys(), moment(p.GetFetchedUnix())), "")
		}
	}
}

func (d *diagnosis) clock(skew time.Duration) {
	detail := short(skew.Abs()) + " off the server's"
	const do = "set the clock by time synchronisation, as in: timedatectl set-ntp true"
	switch {
	case skew.Abs() >= skewBad:
		d.add("clock", "fail", detail+": certificates are refused as not yet, or no longer, valid", do)
	case skew.Abs() >= skewWarn:
		d.add("clock", "warn", detail, do)
	default:
		d.add("clock", "ok", detail, "")
	}
}

// expiry fails for what has ended and warns of what ends soon.
func (d *diagnosis) expiry(what string, unix int64, soon time.Duration, do string) {
	if unix == 0 {
		return
	}
	left := time.Unix(unix, 0).Sub(d.app.now())
	switch {
	case left <= 0:
		d.add(what, "fail", "expired "+short(-left)+" ago", do)
	case left < soon:
		d.add(what, "warn", "ends in "+short(left), do)
	default:
		d.add(what, "ok", "ends in "+short(left), "")
	}
}

// admin checks the SVID by which this user asks a server elsewhere.
func (d *diagnosis) admin() {
	source, err := loadAdmin(d.app.far.dir)
	if err != nil {
		d.fault("admin SVID", err, "")
		return
	}
	d.add("admin SVID", "ok", source.svid.ID.String()+" in "+d.app.far.dir, "")
	d.expiry("admin SVID's end", source.svid.Expiry().Unix(), 0, "get a new line: kith ids admins add "+source.name()+"; then kith join --admin LINE")
}

func (d *diagnosis) server(ctx context.Context) *pb.StatusResponse {
	path := d.app.paths.AdminSocket
	if _, err := os.Stat(path); os.IsNotExist(err) && d.app.far.address == "" {
		d.add("server", "absent", "no socket at "+path, "")
		return nil
	}
	s, err := d.app.serverStatus(ctx)
	if fault.Is(err, fault.Denied) {
		d.add("server", "absent", "one runs here, and only its own user may ask it", "")
		return nil
	}
	if err != nil {
		d.fault("server", err, "kith server, or systemctl restart kith-server")
		return nil
	}
	d.add("server", "ok", fmt.Sprintf("%s at %s, version %s", s.GetTrustDomain(), s.GetAddress(), s.GetVersion()), "")
	if word, _, _ := strings.Cut(s.GetStore(), " "); strings.TrimSuffix(word, ":") == "ok" {
		d.add("store", "ok", s.GetStore(), "")
	} else {
		d.add("store", "fail", s.GetStore(), "df "+d.app.paths.State+"; renewals go on, changes are refused until it is back")
	}
	d.expiry("root", s.GetRootExpiresUnix(), rootSoon, "plan a new root before it ends")
	d.expiry("issuing CA", s.GetIssuingCaExpiresUnix(), time.Minute, "restart kith server; it is renewed by itself")
	if s.GetJournalUsed() >= journalBad {
		d.add("issuance journal", "warn", fmt.Sprintf("%.0f %% used", s.GetJournalUsed()*100), "df "+d.app.paths.State+"; issuing stops when it is full")
	}
	for _, alarm := range s.GetAlarms() {
		d.add("alarm", "fail", alarm, "kith status")
	}
	if away := s.GetNodes() - s.GetNodesConnected(); away > 0 {
		d.add("nodes", "warn", fmt.Sprintf("%d of %d are away", away, s.GetNodes()), "kith nodes list")
	}
	return s
}

// kubelet asks the kubelet whose pods the agent is to know.
func (d *diagnosis) kubelet(ctx context.Context, from config.Kubernetes) {
	if from.Kubelet == "" {
		return
	}
	kubelet, err := newKubelet(from, d.app.now)
	if err != nil {
		d.fault("kubelet", err, "agent.kubernetes in kith.yaml")
		return
	}
	defer kubelet.Close()
	pods, err := kubelet.Check(ctx)
	if err != nil {
		d.fault("kubelet", err, "agent.kubernetes in kith.yaml")
		return
	}
	d.add("kubelet", "ok", fmt.Sprintf("%s answers, pods: %d", from.Kubelet, pods), "")
}

// reach dials the server that the agent, or kith.yaml, names.
func (d *diagnosis) reach(ctx context.Context, file config.File, agent *pb.AgentStatus) {
	address := agent.GetServer()
	if address == "" {
		address = file.Agent.Server
	}
	if address == "" || agent.GetConnected() {
		return
	}
	dialer := net.Dialer{Timeout: 3 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		d.add("reachability", "fail", err.Error(), "start the server, or open the way to "+address+" in the firewall")
		return
	}
	conn.Close()
	d.add("reachability", "ok", address+" accepts connections", "")
}
