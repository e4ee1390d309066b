package lab

import (
	"errors"
	"fmt"
	"strings"
)

// Joined starts a server and, as a process of its own that SIGHUP makes renew
// every SVID, an agent that has joined it as node vm-1 of class vms.
func (h *Host) Joined(trustDomain string) (agent *Process) {
	h.t.Helper()
	h.WriteConfig(fmt.Sprintf("trust_domain: %[1]s\nserver: {listen: \"127.0.0.1:%[2]d\", address: \"127.0.0.1:%[2]d\", metrics: \"127.0.0.1:0\"}\n"+
		"agent: {advertise: \"127.0.0.1\", metrics: \"127.0.0.1:0\"}\n", trustDomain, Port(h.t)))
	h.WaitReady(h.Start("kith", "server"))
	for line := range strings.Lines(h.Kith("nodes", "add", "vm-1", "--class", "vms")) {
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "kith" && f[1] == "join" {
			h.Kith(f[1:]...)
		}
	}
	agent = h.Start("kith", "agent")
	Eventually(h.t, Soon, "the agent is connected", func() error {
		if out := h.Kith("nodes", "-o", "json"); !strings.Contains(strings.ReplaceAll(out, " ", ""), `"connected":true`) {
			return errors.New(out)
		}
		return nil
	})
	return agent
}

// Guide is a page of docs/ that a suite executes.
type Guide struct{ text string }

// ParseGuide takes the page's text.
func ParseGuide(text []byte) Guide { return Guide{string(text)} }

// Block is the first fenced block after a text.
func (g Guide) Block(after string) (string, error) {
	_, rest, found := strings.Cut(g.text, after)
	_, rest, opened := strings.Cut(rest, "\n```")
	_, rest, _ = strings.Cut(rest, "\n")
	block, _, closed := strings.Cut(rest, "```")
	if !found || !opened || !closed {
		return "", fmt.Errorf("the page has no block after %q", after)
	}
	return block, nil
}
