//go:build hosts

package hosts

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// TestBar16 sets the clocks of server, caller and called, each on a host of its
// own, while all runs and across restarts.
func TestBar16(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{5 * time.Minute, -5 * time.Minute} {
		t.Run("the server "+off.String(), func(t *testing.T) { t.Parallel(); serverMinutesOff(t, off) })
	}
	t.Run("a node five minutes", func(t *testing.T) { t.Parallel(); nodeMinutesOff(t) })
	t.Run("an hour is named", func(t *testing.T) { t.Parallel(); hourIsNamed(t) })
	t.Run("the server back 24h", func(t *testing.T) { t.Parallel(); serverDayBack(t) })
	t.Run("the server ahead 24h", func(t *testing.T) { t.Parallel(); serverDayAhead(t) })
	t.Run("all ahead 24h", func(t *testing.T) { t.Parallel(); allDayAhead(t) })
}

// serverMinutesOff: a server whose clock is off from the start, and one whose
// clock steps back to where it should be.
func serverMinutesOff(t *testing.T, off time.Duration) {
	d := startTimed(t, 30*time.Minute, off)
	d.renews(t, "a start with the server's clock off", d.agent1)
	d.hub.SetClock(0)
	d.renews(t, "the server's clock was set", d.agent1)
	d.agent2.Kill()
	d.agent2 = d.second.Start("kith", "agent")
	d.await(t, "vm-2")
	d.works(t, "a restart of the agent")
}

// nodeMinutesOff: the clock of caller and called steps while they run, and is so
// when they start again.
func nodeMinutesOff(t *testing.T) {
	d := startTimed(t, 30*time.Minute, 0)
	for _, off := range []time.Duration{5 * time.Minute, -5 * time.Minute} {
		for _, side := range []struct {
			host  *lab.Host
			name  string
			agent **lab.Process
		}{{d.first, "vm-1", &d.agent1}, {d.second, "vm-2", &d.agent2}} {
			what := fmt.Sprintf("%s with its clock at %s", side.name, off)
			side.host.SetClock(off)
			d.works(t, what)
			d.renews(t, what, d.agent1)
			(*side.agent).Kill()
			*side.agent = side.host.Start("kith", "agent")
			d.await(t, side.name)
			d.works(t, "a restart of "+what)
			side.host.SetClock(0)
		}
	}
	d.works(t, "all clocks are right")
}

// hourIsNamed: whoever meets a clock an hour off says so, and by how much; when it
// is set right, all goes on by itself.
func hourIsNamed(t *testing.T) {
	d := startTimed(t, 30*time.Minute, 0)
	// The longest-lived certificate there is, a fresh one, ends within the hour.
	for _, off := range []time.Duration{time.Hour + time.Minute, -time.Hour} {
		third, _ := d.net.AddHost()
		third.SetClock(off)
		// Join.
		r := third.Try("kith", "join", d.line(t, "nodes", "add", "vm-3", "--class", "vms"))
		if r.Code == 0 {
			t.Errorf("kith join with the clock at %s succeeded", off)
		}
		says(t, fmt.Sprintf("kith join with the clock at %s", off), func() string { return r.Stderr })
		// The caller's side of a handshake; the agent was right when it connected.
		d.second.SetClock(off)
		says(t, fmt.Sprintf("a caller at %s", off), func() string {
			return d.second.Do("bash", "-c", "cat log/kith-agent-*.log") + d.get("/v1/orders")
		})
		if got := d.get("/v1/orders"); strings.Contains(got, " 200") {
			t.Errorf("a caller at %s is served: %q", off, got)
		}
		// Renewal, and a start: the server is there and shows its certificate.
		d.agent2.Kill()
		d.agent2 = d.second.Start("kith", "agent")
		says(t, fmt.Sprintf("an agent at %s", off), d.agent2.Output)
		says(t, fmt.Sprintf("kith doctor at %s", off), func() string {
			r := d.second.Try("kith", "doctor")
			return r.Stdout + r.Stderr
		})
		d.second.SetClock(0)
		d.await(t, "vm-2")
		d.works(t, "the caller's clock is right again")
		// The called side: it meets a caller whose certificate is of another time.
		d.first.SetClock(off)
		lab.Eventually(t, patient, fmt.Sprintf("the called at %s refuses", off), func() error {
			if got := d.get("/v1/orders"); strings.Contains(got, " 200") {
				return fmt.Errorf("got %q", got)
			}
			return nil
		})
		says(t, fmt.Sprintf("the called at %s", off), d.orders.Output)
		d.first.SetClock(0)
		d.await(t, "vm-1")
		d.works(t, "the called one's clock is right again")
	}
}

// serverDayBack: nothing that has ended comes back, and no authority overlaps.
func serverDayBack(t *testing.T) {
	began := time.Now()
	d := startTimed(t, 30*time.Second, 0)
	third, _ := d.net.AddHost()
	third.SetClock(0)
	used := d.line(t, "nodes", "add", "vm-3", "--class", "vms")
	third.Kith("join", used)
	expired := d.line(t, "nodes", "add", "vm-4", "--class", "vms", "--ttl", "5s")
	expiredAdmin := d.line(t, "ids", "admins", "add", "eve", "--role", "admin", "--ttl", "5s")
	usedAdmin := d.line(t, "ids", "admins", "add", "ann", "--role", "admin")
	third.Kith("join", "--admin", usedAdmin)
	server := strings.Split(usedAdmin, "/")[0]
	third.Kith("--server", server, "nodes")
	svidEnds := time.Now().Add(2 * d.outage)
	<-time.After(5 * time.Second) // the tokens end

	d.hub.SetClock(-day)
	says(t, "the log", d.server.Output)
	says(t, "kith status", func() string { return d.hub.Kith("status") })
	refused := func(when string) {
		t.Helper()
		fourth, _ := d.net.AddHost()
		fourth.SetClock(0)
		for what, args := range map[string][]string{
			"an expired join token": {expired}, "a used join token": {used},
			"an expired admin token": {"--admin", expiredAdmin}, "a used admin token": {"--admin", usedAdmin},
		} {
			r := fourth.Try("kith", append([]string{"join"}, args...)...)
			if r.Code == 0 || !strings.Contains(r.Stderr, "refused") && !strings.Contains(r.Stderr, "kith nodes add") {
				t.Errorf("%s, %s: exit %d, %s%s; want a refusal", when, what, r.Code, r.Stdout, r.Stderr)
			}
		}
	}
	refused("with the clock back")
	d.renews(t, "the server's clock went back", d.agent1)
	d.works(t, "the server's clock went back")
	// A whole life of an SVID and half of an authority's: each is renewed. By a
	// clock that is a little slow the admin's own program would use what has ended.
	<-time.After(time.Until(svidEnds.Add(3 * time.Second)))
	third.SetClock(-15 * time.Second)
	if r := third.Try("kith", "--server", server, "nodes"); r.Code == 0 {
		t.Errorf("an admin SVID that has ended opens a session: %s", r.Stdout)
	}
	d.renews(t, "a minute by the time that has passed", d.agent1)
	d.works(t, "a minute by the time that has passed")

	// A start by a clock that is back.
	before := d.state(t)
	d.server.Stop()
	again := d.hub.Start("kith", "server")
	lab.Eventually(t, patient, "a server whose clock is back does not start", func() error {
		if !again.Exited() {
			return fmt.Errorf("it runs:\n%s", again.Output())
		}
		return nil
	})
	says(t, "a server that does not start", again.Output)
	d.works(t, "a start that was refused")
	d.hub.SetClock(0)
	d.server = d.hub.Start("kith", "server")
	d.hub.WaitReady(d.server)
	d.await(t, "vm-1", "vm-2")
	if after := d.state(t); after != before {
		t.Errorf("after the restart:\n%s\nbefore:\n%s", after, before)
	}
	refused("after the restart")
	d.renews(t, "the restart", d.agent1)
	d.works(t, "the restart")
	d.checkIssuance(t, began)
}

// serverDayAhead: nothing is taken for over that is not, and when the clock is
// back all goes on as if nothing had been.
func serverDayAhead(t *testing.T) {
	began := time.Now()
	d := startTimed(t, 30*time.Second, 0)
	third, _ := d.net.AddHost()
	third.SetClock(0)
	unused := d.line(t, "nodes", "add", "vm-3", "--class", "vms")
	unusedAdmin := d.line(t, "ids", "admins", "add", "ann", "--role", "admin")
	before := d.state(t)
	d.hub.SetClock(day)
	says(t, "the log", d.server.Output)
	d.renews(t, "the server's clock jumped ahead", d.agent1)
	d.works(t, "the server's clock jumped ahead")
	d.agent2.Kill()
	d.agent2 = d.second.Start("kith", "agent")
	d.await(t, "vm-2")
	<-time.After(d.outage + 5*time.Second) // everything is renewed once, and the clock is written to the store
	d.works(t, "half a life by that clock")
	if after := d.state(t); after != before {
		t.Errorf("with the clock ahead:\n%s\nbefore:\n%s", after, before)
	}
	d.hub.SetClock(0)
	third.Kith("join", unused)
	third.Kith("join", "--admin", unusedAdmin)
	d.server.Stop()
	d.server = d.hub.Start("kith", "server")
	d.hub.WaitReady(d.server)
	d.await(t, "vm-1", "vm-2")
	if after := d.state(t); !strings.HasPrefix(after, before[:strings.Index(before, "vm-1")]) || !strings.Contains(after, "vm-3") {
		t.Errorf("after the restart:\n%s\nbefore:\n%s", after, before)
	}
	d.renews(t, "the clock is right again", d.agent1)
	d.works(t, "the clock is right again")
	d.checkIssuance(t, began)
}

// allDayAhead: a whole site's clocks jump, and come back. The nodes have thrown
// nothing away that they cannot get again by themselves.
func allDayAhead(t *testing.T) {
	d := startTimed(t, 30*time.Second, 0)
	before := d.state(t)
	all := []*lab.Host{d.hub, d.first, d.second}
	for _, h := range all {
		h.SetClock(day)
	}
	lab.Eventually(t, patient, "the nodes take their SVIDs for ended", func() error {
		if got := d.get("/v1/orders"); strings.Contains(got, " 200") {
			return fmt.Errorf("got %q", got)
		}
		return nil
	})
	for _, h := range all {
		h.SetClock(0)
	}
	d.await(t, "vm-1", "vm-2")
	d.works(t, "all clocks are right again")
	if after := d.state(t); after != before {
		t.Errorf("afterwards:\n%s\nbefore:\n%s", after, before)
	}
}
