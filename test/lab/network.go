package lab

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

// Network is a bridge with hosts on it, each in its own network namespace. It
// needs root; everything is removed when the test ends.
type Network struct {
	t      testing.TB
	prefix string
	hosts  int
}

// NewNetwork makes an empty network 10.99.0.0/24, all of it inside namespaces.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	n := &Network{t: t, prefix: fmt.Sprintf("kl%06x", rand.Uint32()&0xffffff)}
	n.ip("netns", "add", n.bridge())
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", n.bridge()).Run() })
	n.in(n.bridge(), "ip", "link", "add", "br0", "type", "bridge")
	n.in(n.bridge(), "ip", "link", "set", "br0", "up")
	return n
}

func (n *Network) bridge() string { return n.prefix + "b" }

func (n *Network) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (n *Network) in(ns, name string, args ...string) {
	n.t.Helper()
	n.feed(ns, "", name, args...)
}

func (n *Network) feed(ns, stdin, name string, args ...string) {
	n.t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=/run/netns/" + ns, "--", name}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// AddHost plugs a new host into the network and returns it with its address.
func (n *Network) AddHost() (*Host, string) {
	n.t.Helper()
	n.hosts++
	h := NewHost(n.t)
	h.NetNS = fmt.Sprintf("%sh%d", n.prefix, n.hosts)
	port := fmt.Sprintf("p%d", n.hosts)
	n.ip("netns", "add", h.NetNS)
	n.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", h.NetNS).Run() })
	n.in(n.bridge(), "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", "/run/netns/"+h.NetNS)
	n.in(n.bridge(), "ip", "link", "set", port, "master", "br0", "up")
	addr := fmt.Sprintf("10.99.0.%d", n.hosts)
	n.in(h.NetNS, "ip", "addr", "add", addr+"/24", "dev", "eth0")
	n.in(h.NetNS, "ip", "link", "set", "eth0", "up")
	n.in(h.NetNS, "ip", "link", "set", "lo", "up")
	return h, addr
}

// Cut takes the host's cable out; Mend puts it back.
func (n *Network) Cut(h *Host) { n.cable(h, "down") }

// Mend puts the host's cable back.
func (n *Network) Mend(h *Host) { n.cable(h, "up") }

func (n *Network) cable(h *Host, state string) {
	n.t.Helper()
	port := "p" + strings.TrimPrefix(h.NetNS, n.prefix+"h")
	n.in(n.bridge(), "ip", "link", "set", port, state)
}

// Way is the direction in which packets are lost.
type Way string

// The ways in which a host can be cut off.
const (
	BothWays Way = "both ways"
	Inbound  Way = "inbound"  // the host is not reached, and what it sends arrives
	Outbound Way = "outbound" // what it sends is lost
)

// Partition drops packets between the host and the peers' addresses, or all of
// them when none are named, until Heal. Unlike a cable that is cut, nobody is
// told.
func (n *Network) Partition(h *Host, way Way, peers ...string) {
	n.t.Helper()
	from, to := "", ""
	if len(peers) > 0 {
		list := "{ " + strings.Join(peers, ", ") + " }"
		from, to = "ip saddr "+list, "ip daddr "+list
	}
	var rules strings.Builder
	rules.WriteString("table inet kithlab\ndelete table inet kithlab\ntable inet kithlab {\n")
	if way != Outbound {
		fmt.Fprintf(&rules, "chain in { type filter hook input priority 0; iifname eth0 %s drop; }\n", from)
	}
	if way != Inbound {
		fmt.Fprintf(&rules, "chain out { type filter hook output priority 0; oifname eth0 %s drop; }\n", to)
	}
	rules.WriteString("}\n")
	n.feed(h.NetNS, rules.String(), "nft", "-f", "-")
}

// Heal ends the partition of a host.
func (n *Network) Heal(h *Host) {
	n.t.Helper()
	n.feed(h.NetNS, "table inet kithlab\ndelete table inet kithlab\n", "nft", "-f", "-")
}
