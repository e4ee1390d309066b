package server_test

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/server"
)

// BenchmarkPropagation1000 measures one change of a rule from the operator's
// call until 1 000 connected agents have acked it, and the CPU time that server
// and agents, all in this process, spend on it.
func BenchmarkPropagation1000(b *testing.B) { benchmarkPropagation(b, 1000) }

// BenchmarkPropagation100 is the same with 100 agents.
func BenchmarkPropagation100(b *testing.B) { benchmarkPropagation(b, 100) }

func benchmarkPropagation(b *testing.B, agents int) {
	r := start(b, func(c *server.Config) { c.Audit = nil })
	r.apply(&pb.ApplyRequest{Put: shop()})
	for i := range agents {
		a := r.joined(fmt.Sprintf("n%d", i))
		a.connect()
	}
	within(b, "all agents to hold the state", func() bool {
		nodes, err := r.s.ListNodes(b.Context())
		return err == nil && !slices.ContainsFunc(nodes, func(n *pb.NodeInfo) bool { return n.GetRevision() != 2 })
	})
	took := make([]time.Duration, 0, b.N)
	before := cpuTime(b)
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		result := r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", fmt.Sprintf("GET /v%d/{**}", i))}})
		if int(result.GetAcked()) != agents {
			b.Fatalf("%d of %d agents acked", result.GetAcked(), result.GetAffected())
		}
		took = append(took, result.GetTook().AsDuration())
	}
	b.StopTimer()
	spent := cpuTime(b) - before
	slices.Sort(took)
	b.ReportMetric(float64(spent.Microseconds())/1000/float64(len(took)), "cpu-ms/change")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// BenchmarkJoin measures one attestation by token over its own connection, both
// sides.
func BenchmarkJoin(b *testing.B) {
	r := start(b, func(c *server.Config) { c.Audit = nil })
	for i := 0; b.Loop(); i++ {
		if _, err := r.attestBy(r.line(fmt.Sprintf("n%d", i)), attest.JoinToken, newKey(b), byToken(b)); err != nil {
			b.Fatal(err)
		}
	}
}
