package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

func register(service string, addresses ...string) *pb.EnforceRequest {
	return &pb.EnforceRequest{Message: &pb.EnforceRequest_Register{Register: &pb.Register{Service: service, Addresses: addresses}}}
}

func (s *testServer) announced(want ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var got []string
	for _, e := range s.endpoints {
		got = append(got, e.GetService()+" "+e.GetAddress())
	}
	return strings.Join(got, ",") == strings.Join(want, ",")
}

func TestEndpointsAreTheFullSetOfTheNode(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	orders := n.attach(&pb.Open{As: "orders", Serves: true})
	orders.slice()
	orders.send(register("", "10.0.0.7:8443", "10.0.0.7:8444"))
	n.people.be(110, 1000)
	web := n.attach(&pb.Open{As: "web", Serves: true})
	web.slice()
	web.send(register("web", "10.0.0.7:9443"))
	eventually(t, "three endpoints", func() bool {
		return s.announced("orders 10.0.0.7:8443", "orders 10.0.0.7:8444", "web 10.0.0.7:9443")
	})
	orders.send(register("", "10.0.0.7:8443"))
	eventually(t, "replacement", func() bool { return s.announced("orders 10.0.0.7:8443", "web 10.0.0.7:9443") })
	web.close()
	eventually(t, "end of a point", func() bool { return s.announced("orders 10.0.0.7:8443") })
	s.locked(func() {
		if id := s.endpoints[0].GetSpiffeId(); id != "spiffe://"+domain+"/vms/orders" {
			t.Errorf("registered by %s", id)
		}
		s.endpoints = nil
	})
	s.down()
	s.listen()
	eventually(t, "registration on the new stream", func() bool { return s.announced("orders 10.0.0.7:8443") })
}

func TestEndpointsOfOtherServicesAreRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	p := n.attach(&pb.Open{As: "orders", Serves: true})
	p.slice()
	p.send(register("web", "10.0.0.7:8443"))
	wantCode(t, "service of another", p.refused(), codes.PermissionDenied)
	for _, address := range []string{"", "10.0.0.7", ":8443", "10.0.0.7:0", "10.0.0.7:99999", "10.0.0.7:http", strings.Repeat("x", 300) + ":1"} {
		if err := checkAddresses([]string{address}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %v, want Invalid", address, err)
		}
	}
	if err := checkAddresses(make([]string, 257)); !fault.Is(err, fault.Invalid) {
		t.Errorf("257 addresses: got %v, want Invalid", err)
	}
}

// A restarted agent must not empty the directory before its points are back.
func TestEndpointsOutliveARestartOfTheAgent(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	p := n.attach(&pb.Open{As: "orders", Serves: true})
	p.slice()
	p.send(register("", "10.0.0.7:8443"))
	eventually(t, "registration", func() bool { return s.announced("orders 10.0.0.7:8443") })
	live, left := n.agent.files, n.agent.files // the endpoint is in the cache, or in the journal behind it
	left.dir = t.TempDir()
	eventually(t, "cache with the endpoint", func() bool {
		copied(t, live, left)
		_, kept, torn, err := left.readState()
		return err == nil && torn == nil && kept != nil && len(kept.Endpoints) > 0
	})
	for _, how := range []string{"stopped", "killed"} {
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
		if how == "killed" {
			copied(t, left, live)
		}
		s.locked(func() { s.endpoints = nil })
		n.start()
		eventually(t, how+": registration of before", func() bool { return s.announced("orders 10.0.0.7:8443") })
	}
}

// copied copies what an agent keeps of its state, as a killed one would leave it.
func copied(t *testing.T, from, to files) {
	t.Helper()
	for from, to := range map[string]string{from.state(): to.state(), from.journal(): to.journal()} {
		data, err := os.ReadFile(from)
		if os.IsNotExist(err) {
			err = os.RemoveAll(to)
		} else if err == nil {
			err = os.WriteFile(to, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func entry(service string, addresses ...string) *pb.DirectoryEntry {
	e := &pb.DirectoryEntry{Service: service}
	for _, a := range addresses {
		e.Endpoints = append(e.Endpoints, &pb.Endpoint{Address: a, Node: "vm-1"})
	}
	return e
}

func TestPartialDirectoryOnlyAdds(t *testing.T) {
	t.Parallel()
	var c catalog
	c.apply(&pb.Directory{Entries: []*pb.DirectoryEntry{entry("orders", "a:1", "b:1"), entry("web", "c:1")}})
	c.apply(&pb.Directory{Partial: true, Entries: []*pb.DirectoryEntry{entry("orders", "b:1", "d:1")}})
	text := func() string {
		var out []string
		for _, e := range c.view().GetEntries() {
			for _, p := range e.GetEndpoints() {
				out = append(out, e.GetService()+" "+p.GetAddress())
			}
		}
		return strings.Join(out, ",")
	}
	if got := text(); got != "orders b:1,orders d:1,orders a:1,web c:1" {
		t.Errorf("after a partial one: %s", got)
	}
	c.apply(&pb.Directory{Entries: []*pb.DirectoryEntry{entry("orders", "d:1")}})
	if got := text(); got != "orders d:1" {
		t.Errorf("after a whole one: %s", got)
	}
}

func TestCallersGetTheDirectoryAndItsChanges(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	p := n.attach(&pb.Open{As: "web", Calls: true})
	if got := p.slice(); len(got.GetServices()) != 0 || len(got.GetIds()) != 1 {
		t.Errorf("slice of a mere caller: %v", got)
	}
	s.locked(func() {
		s.push(&pb.SyncResponse{Message: &pb.SyncResponse_Directory{Directory: &pb.Directory{Version: 2, Entries: []*pb.DirectoryEntry{entry("orders", "a:1")}}}})
	})
	p.directory(func(d *pb.DirectoryView) bool { return len(d.GetEntries()) == 1 })
	s.down() // what is known stays
	q := n.attach(&pb.Open{As: "web", Calls: true})
	q.directory(func(d *pb.DirectoryView) bool { return len(d.GetEntries()) == 1 })
}

func TestRingKeepsTheLatest(t *testing.T) {
	t.Parallel()
	var r ring
	for i := range ringSize + 10 {
		r.add(&pb.Decision{Id: fmt.Sprint(i), Path: strings.Repeat("/é", 2000)})
	}
	got := r.answer(&pb.WhyQuery{Limit: 3}, 3)
	if len(got) != 3 || got[0].GetId() != fmt.Sprint(ringSize+9) || got[2].GetId() != fmt.Sprint(ringSize+7) {
		t.Errorf("got %v", got)
	}
	if len(got[0].GetPath()) > maxFieldText+4 {
		t.Errorf("a path of %d bytes was kept", len(got[0].GetPath()))
	}
	if len(r.answer(&pb.WhyQuery{Id: "5"}, 1)) != 0 || len(r.answer(&pb.WhyQuery{Id: "10"}, 1)) != 1 {
		t.Error("the ring keeps others than the latest")
	}
	if got := r.answer(&pb.WhyQuery{Limit: 1 << 31}, maxAnswer); len(got) != maxAnswer {
		t.Errorf("%d decisions in one answer, want %d", len(got), maxAnswer)
	}
}

func TestStaleSocketIsReplacedAndOthersAreLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "run", "agent.sock")
	first, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listen(path); !fault.Is(err, fault.Conflict) {
		t.Errorf("while it is answered: got %v, want Conflict", err)
	}
	first.UnixListener.Close() // as a killed agent leaves it
	second, err := listen(path)
	if err != nil {
		t.Fatalf("after a kill: %v", err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("socket: %v, %v", info, err)
	}
	second.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("after closing: %v, want the path gone", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(path); !fault.Is(err, fault.Conflict) {
		t.Errorf("a file in its place: got %v, want Conflict", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(filepath.Join(open, "agent.sock")); !fault.Is(err, fault.Denied) {
		t.Errorf("a directory that everybody writes to: got %v, want Denied", err)
	}
}
