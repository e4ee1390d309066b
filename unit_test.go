package kith

import (
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

func gRPCMessage(n int) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(n)), make([]byte, n)...)
}

func TestMessagesAreCountedHoweverTheyAreSplit(t *testing.T) {
	t.Parallel()
	wire := append(append(gRPCMessage(0), gRPCMessage(7)...), gRPCMessage(300)...)
	for size := 1; size <= len(wire); size++ {
		var m messages
		for rest := wire; len(rest) > 0; {
			n := min(size, len(rest))
			m.advance(rest[:n])
			rest = rest[n:]
		}
		if m.started != 3 || !m.whole() || !m.streams() {
			t.Fatalf("pieces of %d: %d messages, whole %v", size, m.started, m.whole())
		}
	}
	var one messages
	one.advance(gRPCMessage(5)[:9])
	if one.whole() || one.streams() {
		t.Error("part of one message taken for more")
	}
}

func FuzzMessages(f *testing.F) {
	f.Add(gRPCMessage(3), 2)
	f.Fuzz(func(t *testing.T, wire []byte, size int) {
		var whole, split messages
		whole.advance(wire)
		size = 1 + (size&0x7fffffff)%64
		for rest := wire; len(rest) > 0; {
			n := min(size, len(rest))
			split.advance(rest[:n])
			rest = rest[n:]
		}
		if whole != split {
			t.Errorf("got %+v and %+v", whole, split)
		}
	})
}

func TestReportsNeverBlock(t *testing.T) {
	t.Parallel()
	w := &Workload{cfg: Config{}.withDefaults()}
	w.reports.init()
	w.live.init()
	w.policy.Store(&ruling{})
	for range reportQueue + 10 {
		w.Decide(&Peer{}, Request{Protocol: HTTP, Method: "GET", Path: "/"})
	}
	if got := w.Stats().Dropped; got != 10 {
		t.Errorf("dropped: got %d, want 10", got)
	}
}

func TestAllowsAreSampledByFlowAndSecond(t *testing.T) {
	t.Parallel()
	var r reports
	r.init()
	id, _ := spiffe.ParseID("spiffe://test.example/web")
	now := time.Unix(1000, 0)
	first, second := &Peer{id: id}, &Peer{id: id} // two connections of one caller
	if !r.sampled(first, "rule", "GET", now) || r.sampled(first, "rule", "GET", now) || r.sampled(second, "rule", "GET", now) {
		t.Error("want exactly the first allow of a flow in a second")
	}
	if !r.sampled(first, "rule", "GET", now.Add(time.Second)) {
		t.Error("want one in the next second")
	}
	reported := 0
	for i := range 2 * sampledFlows {
		if r.sampled(&Peer{id: id}, fmt.Sprint(i), "GET", now.Add(2*time.Second)) {
			reported++
		}
	}
	if reported != sampledFlows {
		t.Errorf("flows in one second: got %d, want at most %d", reported, sampledFlows)
	}
}

func TestReportedTextIsBoundedUTF8(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"\xff\xfe", strings.Repeat("ä", 1000), "ok", ""} {
		if got := clip(text, 101); len(got) > 3*101 || !utf8.ValidString(got) {
			t.Errorf("%.10q: got %d bytes, valid %v", text, len(got), utf8.ValidString(got))
		}
	}
}

func TestDecisionIDs(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for range 1000 {
		id := newDecisionID()
		if len(id) != 16 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") != "" || seen[id] {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
}

type trackedBody struct {
	io.Reader

	closed int
}

func (b *trackedBody) Close() error { b.closed++; return nil }

// A body is closed exactly as far as the attempts have got.
func TestHeldBody(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		use  func(*heldBody)
		fail bool
	}{
		"failed before it was read":  {func(h *heldBody) { h.Close() }, true},
		"answered without a read":    {func(h *heldBody) { h.Close() }, false},
		"read, then closed":          {func(h *heldBody) { io.ReadAll(h); h.Close() }, false},
		"closed after the answer":    {func(h *heldBody) {}, false},
		"closed after a late answer": {func(h *heldBody) { h.Close(); h.Close() }, false},
	} {
		body := &trackedBody{Reader: strings.NewReader("x")}
		held := &heldBody{body: body}
		c.use(held)
		held.settle(c.fail)
		if name == "closed after the answer" {
			held.Close()
		}
		if body.closed == 0 {
			t.Errorf("%s: the body is still open", name)
		}
	}
}

func TestChooseService(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		own     []string
		cfg     Config
		want    string
		refused bool
	}{
		{[]string{"a"}, Config{}, "a", false},
		{[]string{"a", "b"}, Config{As: "b"}, "b", false},
		{[]string{"a", "b"}, Config{As: "a", Service: "b"}, "b", false},
		{[]string{"a"}, Config{As: "other"}, "a", false},
		{[]string{"a", "b"}, Config{}, "", true},
		{[]string{"a"}, Config{Service: "b"}, "", true},
	} {
		got, err := chooseService(c.own, c.cfg)
		if got != c.want || (err != nil) != c.refused {
			t.Errorf("%v %+v: got %q, %v", c.own, c.cfg, got, err)
		}
	}
}

func TestDirectoryLeavesOutWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	for _, entry := range []*pb.DirectoryEntry{
		{Service: ""}, {Service: "a.b"}, {Service: "a", Identities: []string{"not an id"}},
	} {
		if dest, err := parseEntry(entry); err == nil {
			t.Errorf("%v: got %+v, want an error", entry, dest)
		}
	}
	dest, err := parseEntry(&pb.DirectoryEntry{Service: "a", Endpoints: []*pb.Endpoint{
		{Address: "10.0.0.1:80"}, {Address: "10.0.0.1:80"}, {Address: ":80"}, {Address: "10.0.0.1"}, {Address: "10.0.0.1:0"}, {Address: "10.0.0.1:99999"},
	}})
	if err != nil || len(dest.endpoints) != 1 {
		t.Errorf("got %+v, %v, want one endpoint", dest, err)
	}
	if id, err := spiffe.ParseID("spiffe://test.example/b"); err != nil || dest.expects("x")(id) == nil {
		t.Error("a service without identities accepts one")
	}
}

func TestPauses(t *testing.T) {
	t.Parallel()
	p := newBackoff()
	for range 20 {
		p.next = min(2*p.next, longestPause)
	}
	if p.next != longestPause {
		t.Errorf("longest: got %v", p.next)
	}
	if p.reset(); p.next != shortestPause {
		t.Errorf("after progress: got %v", p.next)
	}
}

func FuzzParseSocket(f *testing.F) {
	for _, seed := range []string{"/run/kith/agent.sock", "unix:///run/a", "unix:/run/a", "unix://a/b", "tcp://1.2.3.4:5", "", "unix:", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		path, err := parseSocket("test", value)
		if err == nil && (!strings.HasPrefix(path, "/") || len(path) > maxSocketPath || strings.ContainsAny(path, "?#\x00")) {
			t.Errorf("%q: got %q", value, path)
		}
	})
}

func FuzzParseIdentity(f *testing.F) {
	leaf, private := leafAndKey(f, "/web")
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("spiffe://acme.example/web", "spiffe://other.example", leaf.Raw, key, leaf.Raw)
	f.Add("spiffe://acme.example/web", "acme.example", leaf.Raw, key, leaf.Raw)
	f.Add("spiffe://acme.example/api", "", leaf.Raw, key, leaf.Raw)
	f.Add("spiffe://a/b", "A", []byte{0x30, 0}, []byte{0x30, 0}, []byte{0x30, 0})
	f.Fuzz(func(t *testing.T, id, other string, chain, key, bundle []byte) {
		next, err := parseIdentity(&pb.X509SVIDResponse{
			Svids:            []*pb.X509SVID{{SpiffeId: id, X509Svid: chain, X509SvidKey: key, Bundle: bundle}},
			FederatedBundles: map[string][]byte{other: bundle},
		})
		if err != nil {
			return
		}
		own := next.bundles[next.svid.ID.TrustDomain()]
		if next.svid.ID.String() != id || len(next.all) != 1 || !next.expires.Equal(next.svid.Expiry()) || own == nil || len(own.Roots()) == 0 {
			t.Errorf("an identity of %q: %+v", id, next)
		}
		for td, b := range next.bundles {
			if b.TrustDomain() != td || td != own.TrustDomain() && td.String() != trimScheme(other) {
				t.Errorf("%s: the bundle of %s", td, b.TrustDomain())
			}
		}
	})
}
