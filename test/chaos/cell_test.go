//go:build chaos

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/test/lab"
)

// cell is a trust domain: a server on a host of its own, and nodes, each a host
// with an agent. Every program is started again when it ends, as by systemd.
type cell struct {
	t      *testing.T
	net    *lab.Network
	hub    *lab.Host
	addr   string
	server *lab.Service
	nodes  []*node
	admin  pb.AdminClient
}

// node is a host with an agent.
type node struct {
	*lab.Host
	name  string
	addr  string
	agent *lab.Service
}

// options say what a cell is like; the zero value is a server alone.
type options struct {
	nodes  int
	outage time.Duration // the outage budget, which lifetimes follow from; default 30 min
	disk   int           // MiB of the state directories' file systems; 0: that of the test
	env    []string      // for a build with the tag kithtest, which everything is then

	// Of a stage only.
	rate    int  // requests a second to each service
	held    int  // connections held to each TCP service
	writers int  // of rules
	steady  bool // no rule comes and goes
}

// The addresses on every node: the applications', and where they are exposed.
const (
	appPort     = 8080
	exposedPort = 8443
)

func newCell(t *testing.T, o options) *cell {
	t.Helper()
	c := &cell{t: t, net: lab.NewNetwork(t)}
	c.hub, c.addr = c.net.AddHost()
	if o.disk > 0 {
		c.hub.SmallDisk("state", o.disk)
	}
	if o.env != nil {
		c.hub.TestBuild(o.env...)
	}
	if o.outage == 0 {
		o.outage = 30 * time.Minute
	}
	c.hub.WriteConfig(fmt.Sprintf(`trust_domain: chaos.example
log: {level: debug}
server: {listen: "0.0.0.0:8440", address: "%s:8440"}
survive: {control_plane_outage: %s}
`, c.addr, o.outage))
	c.server = c.hub.Supervise("server", nil, func() []string { return []string{"kith", "server"} })
	c.dial()
	lab.Eventually(t, lab.Soon, "the server answers", c.ready)
	for range o.nodes {
		c.addNode(o)
	}
	return c
}

// addNode joins one more host.
func (c *cell) addNode(o options) *node {
	c.t.Helper()
	n := &node{name: fmt.Sprintf("vm-%d", len(c.nodes)+1)}
	n.Host, n.addr = c.net.AddHost()
	if o.disk > 0 {
		n.SmallDisk("state", o.disk)
	}
	if o.env != nil {
		n.TestBuild(o.env...)
	}
	n.WriteConfig(fmt.Sprintf("log: {level: debug}\nagent: {advertise: \"%s\"}\n", n.addr))
	n.Kith("join", c.joinLine(n.name))
	n.agent = n.Supervise("agent", nil, func() []string { return []string{"kith", "agent"} })
	c.nodes = append(c.nodes, n)
	c.waitConnected(n)
	return n
}

// joinLine makes a token for a node.
func (c *cell) joinLine(name string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.Soon)
	defer cancel()
	out, err := c.admin.AddNode(ctx, &pb.AddNodeRequest{Name: name, Class: "vms"})
	if err != nil {
		c.t.Fatalf("add node %s: %v", name, err)
	}
	return out.GetJoin()
}

// dial opens the admin socket; the connection comes back with the server.
func (c *cell) dial() {
	c.t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(c.hub.Dir, "run", "admin.sock"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}}))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	c.admin = pb.NewAdminClient(conn)
}

// ready is nil when the server answers and its store can be written.
func (c *cell) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	status, err := c.admin.Status(ctx, &pb.StatusRequest{})
	switch {
	case err != nil:
		return err
	case status.GetStore() != "ok":
		return fmt.Errorf("the store is %s", status.GetStore())
	}
	return nil
}

// standings is every node as the server sees it.
func (c *cell) standings() (map[string]*pb.NodeInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	list, err := c.admin.ListNodes(ctx, &pb.ListNodesRequest{})
	if err != nil {
		return nil, err
	}
	out := make(map[string]*pb.NodeInfo)
	for _, n := range list.GetNodes() {
		out[n.GetName()] = n
	}
	return out, nil
}

// connected is nil when these nodes have a stream to the server.
func (c *cell) connected(nodes ...*node) error {
	standings, err := c.standings()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if !standings[n.name].GetConnected() {
			return fmt.Errorf("%s is not connected", n.name)
		}
	}
	return nil
}

func (c *cell) waitConnected(nodes ...*node) {
	c.t.Helper()
	lab.Eventually(c.t, lab.Soon, "the nodes are connected", func() error { return c.connected(nodes...) })
}

// storeChild is the pid of the server's store member; 0 while there is none.
func (c *cell) storeChild() int {
	server := c.server.PID()
	if server == 0 {
		return 0
	}
	r := c.hub.Try("pgrep", "-P", strconv.Itoa(server), "-f", "store-member")
	pid, err := strconv.Atoi(strings.TrimSpace(r.Stdout))
	if err != nil {
		return 0
	}
	return pid
}

// waitStoreChild waits until there is a store member.
func (c *cell) waitStoreChild() int {
	c.t.Helper()
	pid := 0
	lab.Eventually(c.t, lab.Soon, "the server has a store member", func() error {
		if pid = c.storeChild(); pid == 0 {
			return errors.New("it has none")
		}
		return nil
	})
	return pid
}

// expose runs an application behind a proxy on a node.
func (c *cell) expose(n *node, service, role string, slot int) *lab.Service {
	app, exposed := strconv.Itoa(appPort+slot), strconv.Itoa(exposedPort+slot)
	return n.Supervise(service, nil, func() []string {
		return append([]string{"kith", "run", "--log-level", "debug", "--as", service, "--expose", exposed + "=" + app, "--"}, self(role, app)...)
	})
}

// apply changes applied state and does not wait for the nodes.
func (c *cell) apply(objects ...*pb.Object) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.Soon)
	defer cancel()
	if _, err := c.admin.Apply(ctx, &pb.ApplyRequest{Put: objects, Owner: owner, NoWait: true}); err != nil {
		c.t.Fatalf("apply: %v", err)
	}
}

// metric sums a metric of the server over its labels.
func (c *cell) metric(name string) (float64, error) { return metricOf(c.hub, 8441, name, "") }

// failedRenewals is how many SVIDs the node's agent has asked for in vain.
func (n *node) failedRenewals() float64 {
	all, err := metricOf(n.Host, 8442, "kith_agent_svid_requests_total", "")
	good, err2 := metricOf(n.Host, 8442, "kith_agent_svid_requests_total", `result="ok"`)
	if err := errors.Join(err, err2); err != nil {
		return math.NaN() // which is not 0
	}
	return all - good
}

// metricOf sums a metric over those of its lines that hold a label.
func metricOf(h *lab.Host, port int, name, label string) (float64, error) {
	r := h.Try("curl", "-s", "-m", "5", fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
	if r.Code != 0 {
		return 0, fmt.Errorf("metrics: curl ended with %d", r.Code)
	}
	sum := 0.0
	for l := range strings.Lines(r.Stdout) {
		if !strings.HasPrefix(l, name) || !strings.Contains(l, label) {
			continue
		}
		fields := strings.Fields(l)
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, fmt.Errorf("metrics: %q", l)
		}
		sum += v
	}
	return sum, nil
}

// issued is the server's count of what it has signed.
func (c *cell) issued() (float64, error) { return c.metric("kith_ca_issued_total") }

// renew makes every workload SVID of the nodes due and waits until the server
// has signed so many.
func (c *cell) renew(svids int, nodes ...*node) {
	c.t.Helper()
	before, err := c.issued()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, n := range nodes {
		n.agent.Signal(syscall.SIGHUP)
	}
	lab.Eventually(c.t, lab.Soon, "renewals go on", func() error {
		now, err := c.issued()
		if err == nil && now-before < float64(svids) {
			err = fmt.Errorf("%v SVIDs signed of %d", now-before, svids)
		}
		return err
	})
}

// owner is whom all applied state of these tests belongs to.
const owner = "chaos"

// service is an object; root may run it.
func service(name, protocol string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_Service{Service: &pb.Service{
		Name: name, Protocol: protocol, Identities: []string{"/vms/" + name}, RunAs: []string{"root"}, Owner: owner,
	}}}
}

// rule is an object that allows one source some actions.
func rule(name, from, to string, allow ...string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_Rule{Rule: &pb.Rule{Name: name, From: []string{from}, To: to, Allow: allow, Owner: owner}}}
}

var errRuns = errors.New("it runs")

// logOf is all that a program of the server's host has logged.
func (c *cell) logOf(label string) string {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.hub.Dir, "log", label+".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}
