package server_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/store"
)

// backup is a copy of what the server's store holds now.
func (r *rig) backup() registry.Store {
	r.t.Helper()
	items, _, err := r.store.Range(r.t.Context(), "")
	if err != nil {
		r.t.Fatal(err)
	}
	var all registry.Txn
	for _, item := range items {
		all.Do = append(all.Do, registry.Put(item.Key, item.Value))
	}
	out := store.NewMemory()
	if _, err := out.Commit(r.t.Context(), all); err != nil {
		r.t.Fatal(err)
	}
	return out
}

// restore starts the server again on an older state.
func (r *rig) restore(older registry.Store) {
	r.t.Helper()
	r.stop()
	r.store = &flaky{Store: older}
	r.cfg.Store = r.store
	r.start()
}

// back connects an agent to the server of now.
func (r *rig) back(a *agent) {
	r.t.Helper()
	a.disconnect()
	a.conn.Close()
	a.addr = r.s.Addr()
	a.dial()
	a.connect()
}

// A backup that is put back counts its revisions anew. An agent that holds
// revisions of before gets everything, however the numbers compare, and the
// server says that it went back.
func TestThreatT21StateThatWasPutBackReplacesWhatAgentsHold(t *testing.T) {
	t.Parallel()
	for _, changes := range []int{0, 1, 2} {
		t.Run(fmt.Sprintf("%d changes later", changes), func(t *testing.T) {
			r := start(t, nil)
			a := r.joined("n1")
			a.connect()
			r.apply(&pb.ApplyRequest{Put: shop()})
			older := r.backup()
			r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("undone", "web", "orders", "GET /undone")}})
			a.at(3)
			a.disconnect()
			r.restore(older)
			if alarms := r.status().GetAlarms(); len(alarms) != 0 {
				t.Fatalf("alarms before anybody came: %q", alarms)
			}
			for i := range changes {
				r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("later", "web", "orders", fmt.Sprintf("GET /later%d", i))}, NoWait: true})
			}
			get(a, func() bool { a.states, a.deltas = 0, 0; return true })
			r.back(a)
			within(t, "the state of now", func() bool {
				return get(a, func() bool {
					return a.states+a.deltas > 0 && a.objects["rule undone"] == nil && (a.objects["rule later"] != nil) == (changes > 0)
				})
			})
			if alarms := strings.Join(r.status().GetAlarms(), "\n"); !strings.Contains(alarms, "an older state was put back: node n1 held revision 3") {
				t.Errorf("alarms of a server that went back: %q", alarms)
			}
			r.back(a) // and it is of this history now
			a.disconnect()
			r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("last", "web", "orders", "GET /last")}, NoWait: true})
			get(a, func() bool { a.states = 0; return true })
			r.back(a)
			within(t, "the last change", func() bool { return get(a, func() bool { return a.objects["rule last"] != nil }) })
			if got := get(a, func() int { return a.states }); got != 0 {
				t.Errorf("got %d whole states for one change, want the change", got)
			}
		})
	}
}

// What an agent acks of the history before counts for nothing in the new one.
func TestAcksOfAnotherHistoryDoNotCount(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	a.connect()
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{service("orders", "/vms/orders"), service("web", "/vms/web")}})
	older := r.backup()
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("undone", "web", "orders", "GET /undone")}})
	a.at(3)
	a.disconnect()
	r.restore(older)
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("later", "web", "orders", "GET /later")}, NoWait: true})
	old := get(a, func() uint64 { a.held = true; return a.mark })
	r.back(a)
	send := get(a, func() func(*pb.SyncRequest) error { return a.send })
	if err := send(&pb.SyncRequest{Message: &pb.SyncRequest_Ack{Ack: &pb.Ack{Revision: 3, Mark: old}}}); err != nil {
		t.Fatal(err)
	}
	a.report(endpointOf("orders", "10.0.0.1:8443", "/vms/orders")) // what came before it was read, too
	within(t, "the endpoint", func() bool { return a.addresses("orders") == "10.0.0.1:8443" })
	revision := func() uint64 {
		nodes, err := r.s.ListNodes(t.Context())
		if err != nil || len(nodes) != 1 {
			t.Fatalf("nodes: %v %v", nodes, err)
		}
		return nodes[0].GetRevision()
	}
	if got := revision(); got == 3 {
		t.Errorf("revision 3 of another history was taken for ours")
	}
	get(a, func() bool { a.held = false; return true })
	a.ack()
	within(t, "the ack of ours", func() bool { return revision() == 3 })
}
