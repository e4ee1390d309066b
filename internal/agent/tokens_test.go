package agent

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/internal/usertoken/usertokentest"
	"github.com/kith-id/kith/spiffe"
)

// login is a provider whose keys are on this host.
type login struct {
	*usertokentest.Forge

	url  string
	host string
	down atomic.Bool
}

func newLogin(t *testing.T) *login {
	t.Helper()
	l := &login{Forge: usertokentest.New(t, "https://login.example")}
	web := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		if l.down.Load() {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(rw, l.JWKS())
	}))
	t.Cleanup(web.Close)
	l.url, l.host = web.URL, strings.TrimPrefix(web.URL, "http://")
	return l
}

func (l *login) object(services ...string) *pb.Object {
	p := usertoken.Provider{Name: "login", Issuer: l.Issuer, Audiences: []string{"orders"}, URL: l.url, Services: services}
	return &pb.Object{Kind: &pb.Object_Provider{Provider: p.PB()}}
}

// readers is a rule to a service that reads tokens.
func readers(name, to string) *pb.Object {
	r := policy.Rule{Name: name, From: []string{"web"}, To: to, Allow: []string{"GET /{**}"}, When: `jwt.sub == "alice"`}
	return &pb.Object{Kind: &pb.Object_Rule{Rule: r.PB()}}
}

// keys reads until the next keys of a provider.
func (p *attached) keys() *pb.ProviderKeys {
	p.t.Helper()
	for {
		m, err := p.stream.Recv()
		if err != nil {
			p.t.Fatalf("waiting for keys: %v", err)
		}
		if k := m.GetKeys(); k != nil {
			return k
		}
	}
}

func (p *attached) wantKeys(what, url string, kids ...string) {
	p.t.Helper()
	m := p.keys()
	set, err := spiffe.ParseJWKSet(m.GetJwks())
	if err != nil || m.GetUrl() != url || set.Len() != len(kids) {
		p.t.Fatalf("%s: keys %s of %q: %v", what, m.GetJwks(), m.GetUrl(), err)
	}
	for _, kid := range kids {
		if !set.Has(kid) {
			p.t.Errorf("%s: no %s", what, kid)
		}
	}
}

// The agent fetches keys once for all of its points, and again when a token names
// one that is new.
func TestKeysOfProvidersReachThePoints(t *testing.T) {
	t.Parallel()
	l, s := newLogin(t), newServer(t)
	s.state.Objects = append(s.state.Objects, l.object(), readers("users", "orders"))
	n := newNode(t, s)
	n.cfg.KeyHosts = []string{l.host}
	n.start()
	orders := n.attach(&pb.Open{As: "orders", Serves: true})
	if got := orders.slice().GetProviders(); len(got) != 1 || got[0].GetName() != "login" {
		t.Fatalf("providers of the slice: %v", got)
	}
	orders.wantKeys("at first", l.url, "k1")
	l.Rotate("k2")
	orders.send(&pb.EnforceRequest{Message: &pb.EnforceRequest_MissingKey{MissingKey: &pb.MissingKey{Provider: "login", KeyId: "k2"}}})
	orders.wantKeys("after a token that names a new one", l.url, "k1", "k2")
	status := n.agent.status().GetProviders()
	if len(status) != 1 || status[0].GetKeys() != 2 || status[0].GetError() != "" || status[0].GetFetchedUnix() == 0 {
		t.Errorf("status: %v", status)
	}
}

// A point forgets the keys of providers that its slice does not name, so keys that
// were fetched before it gets its slice come after that.
func TestKeysComeAfterTheSliceThatNamesTheirProvider(t *testing.T) {
	t.Parallel()
	of := func(names ...string) (out []*pb.Provider) {
		for _, name := range names {
			out = append(out, &pb.Provider{Name: name, JwksUrl: "https://" + name})
		}
		return out
	}
	s := &points{
		interest: &interest{wanted: map[string]struct{}{"orders": {}}},
		keys:     map[string][]byte{"https://a": []byte("A"), "https://b": []byte("B")},
	}
	p := &point{open: &pb.Open{Serves: true}, services: []string{"orders"}, slice: &pb.Slice{Providers: of("a", "b")}, unsent: true}
	next := func() (out []string) {
		for m := s.outgoing(p, nil); m != nil; m = s.outgoing(p, nil) {
			if keys := m.GetKeys(); keys != nil {
				out = append(out, string(keys.GetJwks()))
			} else {
				out = append(out, "slice")
			}
		}
		return out
	}
	want := func(what string, words ...string) {
		t.Helper()
		if got := next(); !slices.Equal(got, words) {
			t.Errorf("%s: got %q, want %q", what, got, words)
		}
	}
	want("before the server has said that its rules are here")
	s.interest.confirm(0)
	want("then", "slice", "A", "B")
	s.keys = map[string][]byte{"https://a": []byte("A2"), "https://b": []byte("B"), "https://c": []byte("C")}
	p.services, p.slice, p.unsent = []string{"orders", "web"}, &pb.Slice{Providers: of("a", "c")}, true
	want("while a service more is waited for", "A2")
	s.interest.wanted["web"] = struct{}{}
	s.interest.confirm(0)
	want("with it", "slice", "C")
}

// Nobody fetches keys that no rule of a service here needs.
func TestKeysThatNobodyNeedsAreNotFetched(t *testing.T) {
	t.Parallel()
	l, s := newLogin(t), newServer(t)
	s.state.Objects = append(s.state.Objects, l.object("web"), readers("users", "orders"))
	n := newNode(t, s)
	n.cfg.KeyHosts = []string{l.host}
	n.start()
	for _, service := range []string{"orders", "web"} { // a provider of another service; a service whose rules read none
		n.people.be(int32(100+len(service)), 1000)
		if got := n.attach(&pb.Open{As: service, Serves: true}).slice().GetProviders(); len(got) > 0 {
			t.Errorf("providers of %s: %v", service, got)
		}
	}
	if got := n.agent.status().GetProviders(); len(got) > 0 {
		t.Errorf("fetched for nobody: %v", got)
	}
}

// Keys outlive a restart of the agent while their provider is away.
func TestKeysOutliveARestartOfTheAgent(t *testing.T) {
	t.Parallel()
	l, s := newLogin(t), newServer(t)
	s.state.Objects = append(s.state.Objects, l.object(), readers("users", "orders"))
	n := newNode(t, s)
	n.cfg.KeyHosts = []string{l.host}
	n.start()
	n.attach(&pb.Open{As: "orders", Serves: true}).wantKeys("before", l.url, "k1")
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	l.down.Store(true)
	n.start()
	n.attach(&pb.Open{As: "orders", Serves: true}).wantKeys("after", l.url, "k1")
}

// A provider of a newer schema goes to the points as it is, which refuse it.
func TestProviderOfANewerSchemaIsPassedOn(t *testing.T) {
	t.Parallel()
	l, s := newLogin(t), newServer(t)
	newer := l.object()
	newer.GetProvider().ProtoReflect().SetUnknown([]byte{0xa0, 0x06, 0x01})
	s.state.Objects = append(s.state.Objects, newer, readers("users", "orders"))
	n := newNode(t, s)
	n.start()
	got := n.attach(&pb.Open{As: "orders", Serves: true}).slice().GetProviders()
	if len(got) != 1 || len(got[0].ProtoReflect().GetUnknown()) == 0 {
		t.Errorf("providers of the slice: %v", got)
	}
	eventually(t, "ack", func() bool { return s.acked(1) != nil })
	if faults := s.acked(1).GetErrors(); !strings.Contains(strings.Join(faults, "\n"), "provider login") {
		t.Errorf("the server is not told: %q", faults)
	}
}

// Of two changes of keys at once the points know in the end what is so in the end: a
// key that was withdrawn does not come back with the change that was overtaken.
func TestKeysOfAChangeThatWasOvertakenDoNotComeBack(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	now := map[string][]byte{"https://login.example": []byte("k1 and k2")}
	overtaken := make(chan struct{})
	h.know(func() map[string][]byte {
		before := now
		now = map[string][]byte{"https://login.example": []byte("k2")}
		later := func() { h.know(func() map[string][]byte { return now }); close(overtaken) }
		if h.mu.TryLock() { // nothing keeps the other back: it is first
			h.mu.Unlock()
			later()
		} else {
			go later()
		}
		return before
	})
	<-overtaken
	h.mu.Lock()
	defer h.mu.Unlock()
	if got := string(h.keys["https://login.example"]); got != "k2" {
		t.Errorf("got %q, want what is so now", got)
	}
}
