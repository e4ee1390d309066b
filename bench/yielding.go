package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kith-id/kith/internal/pb"
)

// sampled is how many of the agents are looked at while the others yield.
const sampled = 50

// yieldingIntro says what is done and what is not shown by it.
func yieldingIntro(n int) string {
	return fmt.Sprintf(" The rows of *yielding* nodes are the same change on another server, with the same %s agents and the same work, in two processes: "+
		"%d agents run as any program, and they are what is timed; the others run with the policy SCHED_IDLE, so that they take a core only when neither the server nor the %d want it, and give it back at once. "+
		"This is nearer to a fleet, in which no agent's work can delay the server or another agent, and it is the same for the server: it writes to all %s streams, in a random order each time, and each write passes through the kernel to its receiver here. "+
		"It leaves two things out: the network, and that most acks would come while the server still writes to others, where here they come after; the rows above have them at their worst.",
		grouped(int64(n)), sampled, sampled, grouped(int64(n)))
}

// yielding times changes at some agents while the others let them and the server
// go first.
func yielding(ctx context.Context, b *bench, n, changes int) ([]figure, error) {
	d, err := startDomain(ctx, b, "yielding")
	if err != nil {
		return nil, err
	}
	defer d.stop()
	if _, err := d.apply(ctx, serviceObject("orders", "http", "orders"), serviceObject("web", "http", "web"), serviceObject("cart", "http", "cart")); err != nil {
		return nil, err
	}
	few := min(sampled, n/2)
	fleet := make(map[*helper]int)
	var timed, others *helper
	for _, part := range []struct {
		to           **helper
		count, first int
	}{{&others, n - few, 0}, {&timed, few, n - few}} {
		h, err := startHelper(ctx, 0, "agents", filepath.Join(d.dir, "run", "admin.sock"), strconv.Itoa(part.count), strconv.Itoa(part.first))
		if err != nil {
			return nil, err
		}
		defer func() { _ = h.stop() }()
		var connected int
		if err := h.hear(&connected); err != nil {
			return nil, err
		}
		*part.to, fleet[h] = h, connected
	}
	if err := yield(others.pid()); err != nil {
		return nil, err
	}
	var each []float64
	for i := range changes {
		began := monotonic()
		if _, err := d.admin.Apply(ctx, &pb.ApplyRequest{Put: []*pb.Object{ruleObject("to-orders", "web", "orders", fmt.Sprintf("GET /v%d/{**}", i))}}); err != nil {
			return nil, err
		}
		for h, count := range fleet {
			since, err := inForce(ctx, h, count, began)
			if err != nil {
				return nil, err
			}
			if h == timed {
				each = append(each, since...)
			}
		}
	}
	nodes := fmt.Sprintf("change until a node decides by it, all %s nodes, %d of them yielding", grouped(int64(n)), n-few)
	beside := fmt.Sprintf("%d changes at %d nodes", changes, few)
	return []figure{
		upTo(nodes+", p50", quantile(each, 0.5), "ms", 20, "", beside),
		upTo(nodes+", p99", quantile(each, 0.99), "ms", 100, "", beside),
	}, nil
}

// inForce waits until all agents of a process have a change in force, and says how
// long each took.
func inForce(ctx context.Context, agents *helper, count int, began time.Duration) ([]float64, error) {
	for deadline := time.Now().Add(time.Minute); ; wait(ctx, 20*time.Millisecond) {
		var since []time.Duration
		if err := agents.ask(&since, "%d", count); err != nil {
			return nil, err
		}
		took := make([]float64, 0, count)
		for _, at := range since {
			if at >= began {
				took = append(took, ms(at-began))
			}
		}
		switch {
		case len(took) == count:
			return took, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case time.Now().After(deadline):
			return nil, errors.New("a change did not reach every agent within a minute")
		}
	}
}

// yield has a process run when nobody else wants to (SCHED_IDLE): each of its
// threads, as the kernel has it, and those that they make. One that came in between is seen the second time.
func yield(pid int) error {
	idle := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
	for range 2 {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		for _, thread := range threads {
			tid, err := strconv.Atoi(thread.Name())
			if err != nil {
				return err
			}
			if err := unix.SchedSetAttr(tid, &idle, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("have thread %d yield: %w", tid, err)
			}
		}
	}
	return nil
}
