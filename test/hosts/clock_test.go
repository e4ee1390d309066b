//go:build hosts

package hosts

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// joinLine is what `kith nodes add` prints to be typed on the node.
func (d *domain) joinLine(t *testing.T, name string) []string {
	t.Helper()
	out := d.first.Kith("nodes", "add", name, "--class", "vms")
	for l := range strings.Lines(out) {
		if f := strings.Fields(l); len(f) >= 3 && f[0] == "kith" && f[1] == "join" {
			return f[1:]
		}
	}
	t.Fatalf("kith nodes add printed no join line:\n%s", out)
	return nil
}

// TestClockFiveMinutesOffWorks holds reliability bar 16: five minutes either
// way do no harm.
func TestClockFiveMinutesOffWorks(t *testing.T) {
	for _, offset := range []time.Duration{5 * time.Minute, -5 * time.Minute} {
		t.Run(offset.String(), func(t *testing.T) {
			d := startDomain(t)
			d.serveOrders(t)
			h, _ := d.net.AddHost()
			h.SkewClock(offset)
			h.Kith(d.joinLine(t, "vm-3")...)
			h.Start("kith", "agent")
			d.waitConnected(t, "vm-3")
			lab.Eventually(t, lab.Soon, "a call from the skewed host", func() error {
				r := h.Try("kith", "run", "--as", "web", "--", "curl", "-s", "-m", "20", "-w", " %{http_code}", "http://orders/v1/orders")
				if !strings.Contains(r.Stdout, " 200") {
					return errors.New(r.Stdout + r.Stderr)
				}
				return nil
			})
			r := h.Try("kith", "doctor")
			if clock := regexp.MustCompile(`(warn|fail) +clock: (4m59|5m)`); !clock.MatchString(r.Stdout + r.Stderr) {
				t.Errorf("kith doctor does not name the skew:\n%s%s", r.Stdout, r.Stderr)
			}
		})
	}
}

// TestClockTenMinutesOffIsNamed: whether it still works or not, a person is
// told that it is the clock.
func TestClockTenMinutesOffIsNamed(t *testing.T) {
	for _, offset := range []time.Duration{10 * time.Minute, -10 * time.Minute, -2 * time.Hour} {
		t.Run(offset.String(), func(t *testing.T) {
			d := startDomain(t)
			h, _ := d.net.AddHost()
			h.SkewClock(offset)
			r := h.Try("kith", d.joinLine(t, "vm-3")...)
			if r.Code != 0 {
				if !strings.Contains(r.Stderr, "clock") {
					t.Errorf("kith join with the clock %v off: exit %d, %q; want the clock named", offset, r.Code, r.Stderr)
				}
				return
			}
			agent := h.Start("kith", "agent")
			lab.Eventually(t, lab.Soon, "the agent names the clock", func() error {
				if !strings.Contains(agent.Output(), "clock") {
					return errors.New(agent.Output())
				}
				return nil
			})
		})
	}
}
