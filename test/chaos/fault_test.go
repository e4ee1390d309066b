//go:build chaos

package chaos

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// fault is something that goes wrong for a while. All of it is drawn before the
// run, so that a seed gives the same faults.
type fault struct {
	name     string
	touches  []string      // services whose permitted requests may fail; the others' may not
	lasts    time.Duration // how long it is left alone
	bound    time.Duration // in which all is well again afterwards
	mayEnd   []string      // programs that may end by themselves
	begin    func(s *stage) (end func())
	instants bool // it has no end of its own
}

// The bounds within which all is well after a fault, before they are stretched
// for a slow machine. Reliability bars 5 and 6 say 10 s, bar 14 30 s for an
// agent; a call that was lost may wait its 10 s before the next shows anything.
const (
	quick = 15 * time.Second
	slow  = 30 * time.Second
)

// kinds are all kinds of faults.
func kinds() []func(*rand.Rand) fault {
	return []func(*rand.Rand) fault{
		killServer, killStore, killAgent, killService, killClient,
		stopServer, stopStore, stopAgent, stopService, stopClient,
		cutFromServer, cutFromServer, cutHost, fillServer, fillNode,
		failStoreSync, failServerSync, skewNode, restartAll, restartOne,
	}
}

// deck deals faults: one of each kind, in an order that is drawn, before any kind comes
// again, so that a short run has seen them all.
type deck struct{ left []func(*rand.Rand) fault }

func (d *deck) draw(random *rand.Rand) fault {
	if len(d.left) == 0 {
		d.left = kinds()
		random.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
	}
	next := d.left[0]
	d.left = d.left[1:]
	return next(random)
}

// duration is between 300 ms and 6 s, short ones more often.
func duration(random *rand.Rand) time.Duration {
	d := 300*time.Millisecond + time.Duration(random.ExpFloat64()*float64(1500*time.Millisecond))
	return min(d, 6*time.Second)
}

func pick(random *rand.Rand, of []string) string { return of[random.IntN(len(of))] }

func once(name string, bound time.Duration, touches []string, do func(*stage)) fault {
	return fault{name: name, touches: touches, bound: bound, instants: true, begin: func(s *stage) func() { do(s); return func() {} }}
}

func killServer(*rand.Rand) fault {
	return once("kill -9 server", quick, nil, func(s *stage) { s.server.Kill() })
}

func killStore(*rand.Rand) fault {
	return once("kill -9 store", quick, nil, func(s *stage) {
		if pid := s.storeChild(); pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

func killAgent(random *rand.Rand) fault { return killNamedAgent(random.IntN(3)) }

func killNamedAgent(i int) fault {
	return once(fmt.Sprintf("kill -9 agent of vm-%d", i+1), quick, nil, func(s *stage) { s.nodes[i].agent.Kill() })
}

func killService(random *rand.Rand) fault { return killNamedService(pick(random, served())) }

func killNamedService(name string) fault {
	return once("kill -9 proxy of "+name, quick, []string{name}, func(s *stage) { s.services[name].Kill() })
}

func killClient(*rand.Rand) fault {
	return once("kill -9 proxy of the caller", quick, served(), func(s *stage) { s.client.Kill() })
}

// stopped is a program that gets SIGSTOP for a while.
func stopped(name string, random *rand.Rand, touches []string, pid func(*stage) int) fault {
	f := fault{name: "SIGSTOP " + name, touches: touches, lasts: duration(random), bound: quick}
	f.begin = func(s *stage) func() {
		p := pid(s)
		if p == 0 {
			return func() {}
		}
		_ = syscall.Kill(p, syscall.SIGSTOP)
		return func() { _ = syscall.Kill(p, syscall.SIGCONT) }
	}
	return f
}

func stopServer(random *rand.Rand) fault {
	return stopped("server", random, nil, func(s *stage) int { return s.server.PID() })
}

func stopStore(random *rand.Rand) fault { return stopped("store", random, nil, (*stage).storeChild) }

func stopAgent(random *rand.Rand) fault {
	i := random.IntN(3)
	return stopped(fmt.Sprintf("agent of vm-%d", i+1), random, nil, func(s *stage) int { return s.nodes[i].agent.PID() })
}

func stopService(random *rand.Rand) fault {
	name := pick(random, served())
	return stopped("proxy of "+name, random, []string{name}, func(s *stage) int { return s.services[name].PID() })
}

func stopClient(random *rand.Rand) fault {
	return stopped("proxy of the caller", random, served(), func(s *stage) int { return s.client.PID() })
}

func way(random *rand.Rand) lab.Way {
	return []lab.Way{lab.BothWays, lab.Inbound, lab.Outbound}[random.IntN(3)]
}

// cutFromServer parts one node, or all, from the server; calls go on.
func cutFromServer(random *rand.Rand) fault {
	i, w := random.IntN(4), way(random)
	f := fault{name: fmt.Sprintf("partition server from vm-%d, %s", i+1, w), lasts: 2 * duration(random), bound: slow}
	if i == 3 {
		f.name = fmt.Sprintf("partition server from all, %s", w)
	}
	f.begin = func(s *stage) func() {
		var peers []string
		for j, n := range s.nodes {
			if i == j || i == 3 {
				peers = append(peers, n.addr)
			}
		}
		s.net.Partition(s.hub, w, peers...)
		return func() { s.net.Heal(s.hub) }
	}
	return f
}

// cutHost parts one node from everybody.
func cutHost(random *rand.Rand) fault {
	i, w := random.IntN(3), way(random)
	f := fault{name: fmt.Sprintf("partition vm-%d from all, %s", i+1, w), lasts: duration(random), bound: slow, touches: [][]string{{"front", "gate"}, {"back", "echo"}, served()}[i]}
	f.begin = func(s *stage) func() {
		s.net.Partition(s.nodes[i].Host, w)
		return func() { s.net.Heal(s.nodes[i].Host) }
	}
	return f
}

func fillServer(random *rand.Rand) fault {
	return fault{name: "fill the server's disk", lasts: 2 * duration(random), bound: quick, begin: func(s *stage) func() { return s.hub.FillDisk("state") }}
}

func fillNode(random *rand.Rand) fault {
	i := random.IntN(3)
	return fault{
		name: fmt.Sprintf("fill the disk of vm-%d", i+1), lasts: duration(random), bound: quick,
		begin: func(s *stage) func() { return s.nodes[i].FillDisk("state") },
	}
}

// failStoreSync makes the store's next fsync fail. It must not go on after that.
func failStoreSync(*rand.Rand) fault {
	return once("EIO from the store's fsync", slow, nil, func(s *stage) {
		if pid := s.storeChild(); pid != 0 {
			s.hub.FailSync(pid)
			s.awaitEnd(pid)
		}
	})
}

// failServerSync makes the next fsync of journal and audit log fail.
func failServerSync(*rand.Rand) fault {
	f := once("EIO from the server's fsync", slow, nil, func(s *stage) {
		if pid := s.server.PID(); pid != 0 {
			s.hub.FailSync(pid)
			s.awaitEnd(pid)
		}
	})
	f.mayEnd = []string{"server"}
	return f
}

// awaitEnd waits until a process that cannot sync has ended.
func (s *stage) awaitEnd(pid int) {
	s.t.Helper()
	lab.Eventually(s.t, lab.Soon, fmt.Sprintf("process %d, whose fsync fails, ends", pid), func() error {
		if err := syscall.Kill(pid, 0); err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
}

// skewNode starts the agent and the programs of a node again with a clock that
// is five minutes off.
func skewNode(random *rand.Rand) fault {
	i, offset := random.IntN(3), 5*time.Minute
	if random.IntN(2) == 0 {
		offset = -offset
	}
	touches := [][]string{{"front", "gate"}, {"back", "echo"}, served()}[i]
	f := fault{
		name: fmt.Sprintf("clock of vm-%d at %v", i+1, offset), touches: touches, lasts: 5 * time.Second, bound: slow,
		mayEnd: append([]string{"web"}, touches...),
	}
	f.begin = func(s *stage) func() {
		set := func(offset time.Duration) {
			s.nodes[i].SkewClock(offset)
			for _, p := range s.programsOn(s.nodes[i]) {
				p.Restart()
			}
		}
		set(offset)
		return func() { set(0) }
	}
	return f
}

// programsOn is what runs on a node, the agent first.
func (s *stage) programsOn(n *node) []*lab.Service {
	out := []*lab.Service{n.agent}
	for _, name := range served() {
		if s.host[name] == n {
			out = append(out, s.services[name])
		}
	}
	if n == s.nodes[2] {
		out = append(out, s.client)
	}
	return out
}

// programs is everything, in a fixed order.
func (s *stage) programs() []*lab.Service {
	out := []*lab.Service{s.server}
	for _, n := range s.nodes {
		out = append(out, s.programsOn(n)...)
	}
	return out
}

// restartAll ends every program in one order and starts it in another.
func restartAll(random *rand.Rand) fault {
	down, up := random.Perm(9), random.Perm(9)
	var order []string
	for _, i := range up {
		order = append(order, fmt.Sprint(i))
	}
	f := once("restart everything in the order "+strings.Join(order, " "), 2*slow, served(), func(s *stage) {
		all := s.programs()
		for _, i := range down {
			all[i].Hold()
		}
		for _, i := range up {
			all[i].Release()
		}
	})
	f.mayEnd = append([]string{"web", "agent"}, served()...)
	return f
}

// restartOne asks one program to end, as an upgrade does.
func restartOne(random *rand.Rand) fault {
	i := random.IntN(9)
	names := []string{"server", "agent of vm-1", "front", "gate", "agent of vm-2", "back", "echo", "agent of vm-3", "the caller"}
	touches := [][]string{nil, nil, {"front"}, {"gate"}, nil, {"back"}, {"echo"}, nil, served()}
	return once("restart "+names[i], quick, touches[i], func(s *stage) { s.programs()[i].Restart() })
}
