package policy

import (
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
)

// benchSet is rules from many services to one, each to a resource of its own:
// sources sources share the rules evenly.
func benchSet(b testing.TB, rules, sources int) Set {
	b.Helper()
	set := newSet(b, []Service{{Name: "orders", Identities: []string{"/eks/shop/orders"}, Protocol: HTTP}})
	for i := range sources {
		name := fmt.Sprintf("src-%d", i)
		set.Services[name] = Service{Name: name, Identities: []string{"/eks/shop/" + name}, Protocol: HTTP}
	}
	shapes := []string{"GET /v1/res%d/{id}", "GET,POST /v1/res%d", "* /v1/res%d/{id}/items/{**}", "PUT,DELETE /v1/res%d/{id}/lines/{line}"}
	for i := range rules {
		name := fmt.Sprintf("rule-%d", i)
		r := Rule{Name: name, From: []string{fmt.Sprintf("src-%d", i%sources)}, To: "orders"}
		action := fmt.Sprintf(shapes[i/sources%len(shapes)], i/sources/len(shapes))
		if r.Allow = []string{action}; i%20 == 19 {
			r.Allow, r.Deny = nil, []string{action}
		}
		set.Rules[name] = r
	}
	return set
}

// reportCPU adds the processor time of an operation, which says more than its
// duration where others share the machine. It is called before the loop.
func reportCPU(b *testing.B) func() {
	b.Helper()
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}

// manySources is one source for each 100 rules, and one at least.
func manySources(rules int) int { return max(1, rules/100) }

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) { benchDecide(b, benchSet(b, n, manySources(n))) })
	}
	b.Run("hot-pair-100000", func(b *testing.B) { benchDecide(b, benchSet(b, 100_000, 1)) })
}

// benchDecide goes over many sources and paths, so that nothing stays in a cache
// that would not in life.
func benchDecide(b *testing.B, set Set) {
	table := mustCompile(b, set, "orders")
	var peers []Peer
	for i := range min(64, len(set.Services)-1) {
		peers = append(peers, table.Peer(mustID(b, "/eks/shop/src-"+strconv.Itoa(i))))
	}
	each := max(1, len(set.Rules)/(len(set.Services)-1)/4)
	requests := make([]Request, 1024)
	for i := range requests {
		requests[i] = Request{Protocol: HTTP, Method: "GET", Path: fmt.Sprintf("/v1/res%d/order-%d", i*97%each, i)}
	}
	allowed := 0
	b.ReportAllocs()
	defer reportCPU(b)()
	for i := 0; b.Loop(); i++ {
		if table.Decide(peers[i%len(peers)], requests[i&1023]).Effect == Allow {
			allowed++
		}
	}
	if allowed*2 < b.N {
		b.Fatalf("%d of %d allowed: the benchmark asks the wrong thing", allowed, b.N)
	}
}

// What a condition adds to a decision: the same table and requests without one,
// with one that is read as ops, and with one for the interpreter.
func BenchmarkDecideWhen(b *testing.B) {
	for _, c := range []struct{ name, when string }{
		{"none", ""},
		{"native/method", `request.method == "GET"`},
		{"native/header", `request.headers["x-env"] == "prod"`},
		{"native/network", `request.source_ip.within("10.0.0.0/8")`},
		{"native/segment", `peer.path[1] == "shop"`},
		{"native/claim", `"write" in jwt.scope`},
		{"native/three", `request.headers["x-env"] == "prod" && (request.port == 8080 || request.host == "x") && request.time.getHours() < 20`},
		{"native/matches", `request.headers["x-env"].matches("^prod$")`},
		{"native/size", `size(peer.path) == 3`},
		{"steps/equal", `request.headers["x-env"] != request.method`},
		{"steps/choice", `request.method == "GET" ? request.port == 8080 : request.port == 1`},
		{"steps/exists", `peer.path.exists(segment, segment == "shop")`},
		{"cel/chosen", `request.headers["x-env"] == (request.method == "GET" ? "prod" : "test")`},
		{"cel/among", `request.method in [request.headers["x-env"], "GET"]`},
	} {
		b.Run(c.name, func(b *testing.B) {
			set := benchSet(b, 10, 1)
			for name, r := range set.Rules {
				r.When = c.when
				set.Rules[name] = r
			}
			table := mustCompile(b, set, "orders")
			peer := table.Peer(mustID(b, "/eks/shop/src-0"))
			headers, token := Fields{"X-Env": {"prod"}}, Token(fixed{"scope": "read write"})
			b.ReportAllocs()
			defer reportCPU(b)()
			for b.Loop() {
				f := Facts{Time: noon(), Source: netip.AddrFrom4([4]byte{10, 1, 2, 3}), Headers: headers, Token: token}
				if d := table.Decide(peer, Request{Protocol: HTTP, Method: "GET", Path: "/v1/res0/order-1", Port: 8080, Facts: &f}); d.Effect != Allow {
					b.Fatal(d)
				}
			}
		})
	}
}

func BenchmarkDecideWholePath(b *testing.B) {
	table := mustCompile(b, benchSet(b, 1000, 10), "orders")
	peer := table.Peer(mustID(b, "/eks/shop/src-3"))
	b.ReportAllocs()
	for b.Loop() {
		path, err := NormalizePath("/v1/res7/order-1234", table.Paths())
		if err != nil {
			b.Fatal(err)
		}
		if d := table.Decide(peer, Request{Protocol: HTTP, Method: "GET", Path: path}); d.Effect != Allow {
			b.Fatal(d)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{100, 1000, 100_000} {
		for _, sources := range []int{manySources(n), 1} {
			set := benchSet(b, n, sources)
			b.Run(fmt.Sprintf("%d/sources-%d", n, sources), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					mustCompile(b, set, "orders")
				}
				b.ReportMetric(float64(tableBytes(b, set))/(1<<20), "table-MiB")
			})
		}
	}
}

// tableBytes is what one compiled table keeps on the heap beyond its set.
func tableBytes(b testing.TB, set Set) uint64 {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	table := mustCompile(b, set, "orders")
	after := heap()
	runtime.KeepAlive(table)
	return after - min(before, after)
}

func BenchmarkExplain(b *testing.B) {
	for _, n := range []int{100, 1000, 100_000} {
		table := mustCompile(b, benchSet(b, n, max(10, n/100)), "orders")
		peer := table.Peer(mustID(b, "/eks/shop/src-3"))
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := table.Explain(peer, Request{Protocol: HTTP, Method: "GET", Path: "/v2/elsewhere"}); d.Near.Rule == "" {
					b.Fatal(d)
				}
			}
		})
	}
}

func BenchmarkPeer(b *testing.B) {
	table := mustCompile(b, benchSet(b, 1000, 10), "orders")
	id := mustID(b, "/eks/shop/src-3")
	b.ReportAllocs()
	for b.Loop() {
		table.Peer(id)
	}
}

func BenchmarkNormalizePath(b *testing.B) {
	for _, path := range []string{"/v1/orders/1234", "/v1/orders/a%20b", "/v1/./orders/../%41"} {
		b.Run(path, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := NormalizePath(path, PathOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// manyServices is so many services with a hundred rules each.
func manyServices(b testing.TB, services int) *Book {
	b.Helper()
	book := NewBook(trustDomain(b))
	for i := range services {
		name := "svc-" + strconv.Itoa(i)
		book.PutService(Service{Name: name, Identities: []string{"/eks/shop/" + name}, Protocol: HTTP})
		for j := range 100 {
			book.PutRule(Rule{
				Name: fmt.Sprintf("rule-%d-%d", i, j), From: []string{fmt.Sprintf("svc-%d", (i+j+1)%services)}, To: name,
				Allow: []string{fmt.Sprintf("GET /v1/res%d/{id}", j)},
			})
		}
	}
	if _, err := book.Fork().CheckWhole(book); err != nil {
		b.Fatal(err)
	}
	return book
}

// A rule of one service of a hundred changes among 100 000: the change is checked
// as a server does, and the service compiled and swapped as an enforcement point
// does, while others read.
func BenchmarkChangeOneRule(b *testing.B) {
	book := manyServices(b, 1000)
	var table atomic.Pointer[Table]
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		defer reportCPU(b)()
		for i := 0; b.Loop(); i++ {
			next := book.Fork()
			r, _ := next.Rule("rule-7-7")
			r.Allow = []string{"GET /v2/res" + strconv.Itoa(i)}
			next.PutRule(r)
			if _, err := next.Check(book, r.Name); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("recompile", func(b *testing.B) {
		b.ReportAllocs()
		defer reportCPU(b)()
		for b.Loop() {
			next, err := book.Compile("svc-7")
			if err != nil {
				b.Fatal(err)
			}
			table.Store(next)
		}
	})
}
