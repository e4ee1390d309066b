//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/test/lab"
)

// stage is a cell with three nodes where everything goes on at once: two nodes
// serve, the third calls; rules change under the calls, and writers write.
//
//	vm-1  front (http)  gate (tcp, its rule comes and goes)
//	vm-2  back  (http)  echo (tcp)
//	vm-3  web, the caller, who holds connections too
type stage struct {
	*cell
	referee  *referee
	ledger   *ledger
	services map[string]*lab.Service // by name
	host     map[string]*node        // of a service
	client   *lab.Service
	cancel   context.CancelFunc
	running  sync.WaitGroup
	wavering []string
	marks    int
}

// served are the services, in a fixed order.
func served() []string { return []string{"front", "back", "echo", "gate"} }

// newStage brings everything up and waits until it works.
func newStage(t *testing.T, o options) *stage {
	t.Helper()
	o.nodes = 3
	s := &stage{cell: newCell(t, o), services: make(map[string]*lab.Service), host: make(map[string]*node)}
	s.referee = newReferee(t)
	s.ledger = newLedger(s.cell, s.referee)
	s.apply(service("front", "http"), service("back", "http"), service("echo", "tcp"), service("gate", "tcp"), service("web", "http"),
		rule("base-front", "web", "front", "GET /passes/{**}"), rule("base-back", "web", "back", "GET /passes/{**}"), rule("base-echo", "web", "echo", "tcp"))
	for i, name := range served() {
		n, role := s.nodes[i%2], "web"
		if name == "echo" || name == "gate" {
			role = "echo"
		}
		if name == "gate" {
			n = s.nodes[0]
		}
		if name == "echo" {
			n = s.nodes[1]
		}
		s.services[name], s.host[name] = s.expose(n, name, role, i), n
	}
	over := s.referee.disturb(served()...)
	s.client = s.callers(o)
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	t.Cleanup(s.rest)
	for i := range o.writers {
		s.running.Go(func() { s.ledger.write(ctx, i, 5, 250*time.Millisecond) })
	}
	s.wavering = []string{"front", "back", "gate"}
	if o.steady {
		s.wavering = nil
		s.referee.open("gate")
		s.apply(rule("gate-gate", "web", "gate", "tcp"))
	}
	for _, name := range s.wavering {
		s.running.Go(func() { s.waver(ctx, name) })
	}
	lab.Eventually(t, 2*lab.Soon, "the stage works", func() error { return s.well(served()...) })
	over()
	return s
}

// rest ends writers and changes, not the load.
func (s *stage) rest() {
	s.cancel()
	s.running.Wait()
}

// callers is the load behind kith run on the third node.
func (s *stage) callers(o options) *lab.Service {
	const echoPort, gatePort = "7001", "7002"
	args := []string{"kith", "run", "--log-level", "debug", "--as", "web", "--upstream", "echo=127.0.0.1:" + echoPort, "--upstream", "gate=127.0.0.1:" + gatePort, "--"}
	args = append(args, self("load", strconv.Itoa(o.rate), "http:front", "http:back",
		fmt.Sprintf("tcp:echo=%s=127.0.0.1:%s=%d", passes, echoPort, o.held),
		fmt.Sprintf("tcp:gate=%s=127.0.0.1:%s=%d", wavers, gatePort, o.held))...)
	return s.nodes[2].Supervise("web", s.referee, func() []string { return args })
}

// waver lets a rule come and go until ctx ends, and tells the referee when it
// may have come and when it has surely gone.
func (s *stage) waver(ctx context.Context, name string) {
	action := "GET /wavers/{**}"
	if name == "gate" {
		action = "tcp"
	}
	for n := 1; ctx.Err() == nil; n++ {
		s.referee.open(name)
		s.put(ctx, rule("gate-"+name, "web", name, action))
		pause(ctx, 200*time.Millisecond+rand.N(600*time.Millisecond))
		// Who is allowed in the place of web exists nowhere, and is another each
		// time: the change is one even if the answer to the last was lost.
		for try := 1; ctx.Err() == nil; try++ {
			if s.put(ctx, rule("gate-"+name, fmt.Sprintf("/vms/nobody-%d-%d", n, try), name, action)) {
				s.referee.close(name)
				break
			}
			pause(ctx, 100*time.Millisecond)
		}
		pause(ctx, 200*time.Millisecond+rand.N(600*time.Millisecond))
	}
}

// put makes a change and reports whether every node has said that it is in force.
func (s *stage) put(ctx context.Context, object *pb.Object) bool {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	result, err := s.admin.Apply(ctx, &pb.ApplyRequest{Put: []*pb.Object{object}, Owner: owner})
	return err == nil && s.everywhere(result)
}

// everywhere reports whether a change is in force on every node that it concerns,
// by the server's own words. Each rule here is for a service on one node: where
// no node is concerned, that one is away.
func (s *stage) everywhere(result *pb.ChangeResult) bool {
	if result.GetAcked() != result.GetAffected() || result.GetAffected() == 0 || len(result.GetLaggards()) > 0 {
		return false
	}
	for _, w := range result.GetWarnings() {
		if strings.HasPrefix(w, "not enforced") {
			return false
		}
	}
	return true
}

// well is nil when all is as it should be: the server answers and can write,
// every node is connected, a change is in force everywhere, and calls to these
// services pass.
func (s *stage) well(services ...string) error {
	if err := s.ready(); err != nil {
		return err
	}
	if err := s.connected(s.nodes...); err != nil {
		return err
	}
	if err := s.referee.settled(10, services...); err != nil {
		return err
	}
	s.marks++
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	result, err := s.admin.Apply(ctx, &pb.ApplyRequest{Owner: owner, Put: []*pb.Object{rule("mark", "web", "front", fmt.Sprintf("GET /mark/%d", s.marks))}})
	switch {
	case err != nil:
		return err
	case !s.everywhere(result):
		return fmt.Errorf("a change is in force on %d of %d nodes, without %v; %v", result.GetAcked(), result.GetAffected(), result.GetLaggards(), result.GetWarnings())
	}
	return s.ledger.check(ctx)
}

// conclude ends writers and changes, and fails the test for every promise that
// was broken.
func (s *stage) conclude() {
	s.t.Helper()
	s.rest()
	s.t.Logf("%s%s", s.ledger.summary(), s.referee.summary())
	if v := s.referee.verdict(); v != "" {
		s.t.Error(v)
	}
}
