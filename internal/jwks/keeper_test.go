package jwks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kith-id/kith/internal/egress"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/internal/usertoken/usertokentest"
	"github.com/kith-id/kith/spiffe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const login = "https://login.example"

// publisher is a provider's web server; what it answers can be changed.
type publisher struct {
	*httptest.Server

	forge *usertokentest.Forge
	asked atomic.Int64
	mu    sync.Mutex
	other http.HandlerFunc // in place of the set; guarded by mu
}

func publish(t *testing.T) *publisher {
	t.Helper()
	p := &publisher{forge: usertokentest.New(t, login)}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		p.mu.Lock()
		other := p.other
		p.mu.Unlock()
		if other != nil {
			other(rw, r)
			return
		}
		fmt.Fprint(rw, p.forge.JWKS())
	}))
	p.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	p.StartTLS()
	t.Cleanup(p.Close)
	return p
}

func (p *publisher) answer(h http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.other = h
}

func (p *publisher) provider() usertoken.Provider {
	return usertoken.Provider{Name: "login", Issuer: login, Audiences: []string{"orders"}, URL: p.URL + "/jwks"}
}

// clock is a clock that tests move.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time       { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) move(d time.Duration) { c.ahead.Add(int64(d)) }

// keep runs a Keeper that trusts the publisher and may ask this host.
func keep(t *testing.T, p *publisher, change func(*Keeper)) (*Keeper, *clock) {
	t.Helper()
	c := &clock{}
	k := New(Config{
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Now: c.now, Log: slog.New(slog.DiscardHandler),
	})
	if p.Certificate() != nil {
		k.cfg.Roots = p.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	}
	k.times.refresh, k.times.first = 50*time.Millisecond, 5*time.Millisecond
	if change != nil {
		change(k)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); k.Run(ctx) }() //nolint:errcheck // it returns nil
	t.Cleanup(func() { cancel(); <-done })
	return k, c
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit, look := time.NewTimer(time.Minute), time.NewTicker(2*time.Millisecond)
	defer limit.Stop()
	defer look.Stop()
	for !ok() {
		select {
		case <-look.C:
		case <-limit.C:
			t.Fatalf("%s: did not happen within 20 s", what)
		}
	}
}

func (k *Keeper) has(kid string) bool {
	for _, text := range k.Keys() {
		if set, err := spiffe.ParseJWKSet(text); err == nil && set.Has(kid) {
			return true
		}
	}
	return false
}

// seldom fetches only at the start and when it is asked to.
func seldom(k *Keeper) { k.times.refresh = time.Hour }

// Attack 52: keys come and go with their provider, without anybody asking.
func TestAttack52Rotation(t *testing.T) {
	p := publish(t)
	k, _ := keep(t, p, nil)
	k.Need([]usertoken.Provider{p.provider()})
	eventually(t, "the first key", func() bool { return k.has("k1") })
	p.forge.Rotate("k2")
	eventually(t, "the second key", func() bool { return k.has("k2") && k.has("k1") })
	p.forge.Withdraw("k1")
	eventually(t, "the first key is gone", func() bool { return !k.has("k1") && k.has("k2") })
	k.Need(nil)
	eventually(t, "nothing is needed", func() bool { return len(k.Keys()) == 0 })
}

// Attack 52: a token that names a new key makes the set be fetched, and a flood of
// names that nobody has makes it be fetched more and more rarely.
func TestAttack52UnknownKeys(t *testing.T) {
	p := publish(t)
	k, c := keep(t, p, seldom)
	k.Need([]usertoken.Provider{p.provider()})
	eventually(t, "the first key", func() bool { return k.has("k1") })
	p.forge.Rotate("k2")
	k.Missing("login", "k2")
	eventually(t, "the key that was asked for", func() bool { return k.has("k2") })
	flood := func() {
		for i := range 200 {
			k.Missing("login", fmt.Sprintf("made-up-%d", i))
		}
	}
	before := p.asked.Load()
	flood()
	if got := p.asked.Load(); got != before {
		t.Errorf("asked %d times within the gap", got-before)
	}
	for round, gap := range []time.Duration{askAgain, 2 * askAgain, 4 * askAgain} {
		c.move(gap + time.Second)
		want := before + int64(round) + 1
		eventually(t, "the gap is over", func() bool { flood(); return p.asked.Load() == want })
		flood()
		if got := p.asked.Load(); got != want {
			t.Errorf("round %d: asked %d times, want %d", round, got-before, want-before)
		}
	}
	p.forge.Rotate("k3")
	c.move(askRarely)
	eventually(t, "a real one still comes", func() bool { k.Missing("login", "k3"); return k.has("k3") })
	k.Missing("nobody", "k1") // of no provider: nothing to do
}

// Attack 43: a failed fetch makes no key good that was not, keeps the last good
// set, and that not forever.
func TestAttack43FetchFails(t *testing.T) {
	for name, broken := range map[string]http.HandlerFunc{
		"status":   func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusInternalServerError) },
		"not JSON": func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "{") },
		"empty":    func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, `{"keys":[]}`) },
		"private key": func(rw http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(rw, `{"keys":[{"kty":"oct","kid":"k9","k":"AAAA"}]}`)
		},
		"a web page": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/html")
			fmt.Fprint(rw, `{"keys":[]}`)
		},
		"cut off": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "99")
			fmt.Fprint(rw, `{"keys"`)
		},
		"endless": func(rw http.ResponseWriter, _ *http.Request) { rw.Write(bytes.Repeat([]byte(" "), maxBody+9)) }, //nolint:errcheck // cut off
		"long by word": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", fmt.Sprint(maxBody+1))
		},
		"encoded": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Encoding", "gzip")
			fmt.Fprint(rw, "x")
		},
		"long head": func(rw http.ResponseWriter, _ *http.Request) { rw.Header().Set("X", strings.Repeat("x", 2*maxHeader)) },
	} {
		t.Run(name, func(t *testing.T) {
			p := publish(t)
			p.answer(broken)
			k, c := keep(t, p, nil)
			k.Need([]usertoken.Provider{p.provider()})
			failed := func() bool { s := k.Status(); return len(s) == 1 && s[0].Err != nil }
			eventually(t, "a failure", failed)
			if len(k.Keys()) != 0 || k.Status()[0].Keys != 0 {
				t.Fatalf("keys without a fetch: %s", k.Keys())
			}
			p.answer(nil)
			eventually(t, "the keys", func() bool { return k.has("k1") && !failed() })
			p.answer(broken)
			eventually(t, "a failure again", failed)
			if !k.has("k1") {
				t.Error("the last good set is lost")
			}
			c.move(holdFor + time.Minute)
			eventually(t, "they are too old", func() bool { return len(k.Keys()) == 0 && k.Status()[0].Keys == 0 })
		})
	}
}

// Attack 43: a token that names a new key ends no agent when its provider has been
// away for so long that its keys count no more.
func TestAttack43MissingKeyOfASetThatIsTooOld(t *testing.T) {
	p := publish(t)
	k, c := keep(t, p, seldom)
	k.Need([]usertoken.Provider{p.provider()})
	eventually(t, "the first key", func() bool { return k.has("k1") })
	p.answer(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusServiceUnavailable) })
	c.move(holdFor + time.Minute)
	k.Missing("login", "k2")
	eventually(t, "a failure", func() bool { s := k.Status(); return s[0].Err != nil && s[0].Fetched.IsZero() })
	p.answer(nil)
	eventually(t, "the keys are back", func() bool { return k.has("k1") })
}

// A fetch for a missing key that fails is made again, without another token.
func TestMissingKeyIsLookedForUntilAFetchWorks(t *testing.T) {
	p := publish(t)
	k, _ := keep(t, p, seldom)
	k.Need([]usertoken.Provider{p.provider()})
	eventually(t, "the first key", func() bool { return k.has("k1") })
	p.answer(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusServiceUnavailable) })
	p.forge.Rotate("k2")
	k.Missing("login", "k2")
	eventually(t, "a failure", func() bool { return k.Status()[0].Err != nil })
	p.answer(nil)
	eventually(t, "the key that was asked for", func() bool { return k.has("k2") })
}

// Attack 50: where keys are fetched is written by people; it leads nowhere that
// nobody listed.
func TestAttack50WhereKeysAreFetched(t *testing.T) {
	p := publish(t)
	plain := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, p.forge.JWKS()) }))
	t.Cleanup(plain.Close)
	away := httptest.NewTLSServer(http.RedirectHandler(p.URL+"/jwks", http.StatusFound))
	t.Cleanup(away.Close)
	host := strings.TrimPrefix(plain.URL, "http://")
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(p.URL, "https://"))
	k := New(Config{Now: time.Now, Log: slog.New(slog.DiscardHandler), Roots: p.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs})
	get := func(url string) error { _, _, err := k.get(t.Context(), url); return err }
	for _, url := range []string{p.URL, "https://localhost:" + port + "/jwks", "https://[::ffff:127.0.0.1]:" + port, "https://169.254.169.254/latest", "https://10.0.0.1/"} {
		if err := get(url); !errors.Is(err, egress.ErrAddress) || !strings.Contains(fault.HintOf(err), "agent.user_tokens") {
			t.Errorf("%s: %v", url, err)
		}
	}
	for url, why := range map[string]string{
		plain.URL: "plain HTTP", "file:///etc/shadow": "neither https nor http", "gopher://x/": "neither https nor http", "https://user@x/": "carries a user", "//x/": "neither",
	} {
		if err := get(url); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", url, err, why)
		}
	}
	k.cfg.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	if err := get(p.URL + "/jwks"); err != nil {
		t.Errorf("a listed network: %v", err)
	}
	if err := get(plain.URL); err == nil {
		t.Error("a listed network was asked over plain HTTP")
	}
	k.cfg.Allow, k.cfg.Hosts = nil, []string{host}
	if err := get(plain.URL); err != nil {
		t.Errorf("a listed host and port: %v", err)
	}
	if err := get(p.URL); !errors.Is(err, egress.ErrAddress) {
		t.Errorf("another port of the listed host: %v", err)
	}
	k.cfg.Allow, k.cfg.Hosts = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, nil
	k.cfg.Roots = away.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	if err := get(away.URL); err == nil || !strings.Contains(err.Error(), "redirect") {
		t.Errorf("a redirect: %v", err)
	}
	k.cfg.Roots = nil
	if err := get(p.URL); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate nobody here trusts: %v", err)
	}
}

// Attack 50: a proxy named by the environment is not asked.
func TestAttack50NoProxyOfTheEnvironment(t *testing.T) {
	p := publish(t)
	asked := atomic.Int64{}
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(proxy.Close)
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("https_proxy", proxy.URL)
	k, _ := keep(t, p, nil)
	k.Need([]usertoken.Provider{p.provider()})
	eventually(t, "the keys", func() bool { return k.has("k1") })
	if asked.Load() > 0 {
		t.Error("the proxy was asked")
	}
}

// What was fetched outlives the agent, where the provider is asked at the same
// place, and no longer than it would have.
func TestKeysOutliveTheAgent(t *testing.T) {
	p := publish(t)
	k, _ := keep(t, p, nil)
	k.Need([]usertoken.Provider{p.provider()})
	eventually(t, "the keys", func() bool { return k.has("k1") })
	saved := k.Saved()
	p.answer(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusServiceUnavailable) })
	// Nor does a pause in which no workload needs them cost anything.
	k.Need(nil)
	eventually(t, "nothing is needed", func() bool { return len(k.Keys()) == 0 })
	if got := k.Saved(); len(got) != 1 || got[0].Provider != "login" {
		t.Errorf("saved in the pause: %v", got)
	}
	k.Need([]usertoken.Provider{p.provider()})
	eventually(t, "the keys of before the pause", func() bool { return k.has("k1") })
	life := func(change func(*usertoken.Provider), age time.Duration) *Keeper {
		next, c := keep(t, p, func(k *Keeper) { k.Restore(saved) })
		c.move(age)
		provider := p.provider()
		change(&provider)
		next.Need([]usertoken.Provider{provider})
		eventually(t, "a failed fetch", func() bool { s := next.Status(); return len(s) == 1 && s[0].Err != nil })
		return next
	}
	if next := life(func(*usertoken.Provider) {}, 0); !next.has("k1") {
		t.Error("the keys of before are lost")
	}
	if next := life(func(p *usertoken.Provider) { p.URL += "2" }, 0); len(next.Keys()) > 0 {
		t.Error("keys of another place count")
	}
	if next := life(func(*usertoken.Provider) {}, holdFor+time.Minute); len(next.Keys()) > 0 {
		t.Error("keys count that are too old")
	}
	saved[0].Keys = []byte("{")
	if next := life(func(*usertoken.Provider) {}, 0); len(next.Keys()) > 0 {
		t.Error("keys count that cannot be read")
	}
}

// A provider that moves starts without the keys of the former place.
func TestProviderMoves(t *testing.T) {
	p := publish(t)
	changes := atomic.Int64{}
	k, _ := keep(t, p, func(k *Keeper) { k.cfg.Changed = func() { changes.Add(1) } })
	k.Need([]usertoken.Provider{p.provider()})
	eventually(t, "the keys", func() bool { return k.has("k1") && changes.Load() == 1 })
	p.answer(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNotFound) })
	moved := p.provider()
	moved.URL += "/elsewhere"
	k.Need([]usertoken.Provider{moved})
	eventually(t, "the keys of before are gone", func() bool { return len(k.Keys()) == 0 && changes.Load() == 2 })
	inline := moved
	inline.URL, inline.Keys = "", p.forge.JWKS()
	k.Need([]usertoken.Provider{inline})
	eventually(t, "nothing is fetched for keys that are given", func() bool { return len(k.Status()) == 0 })
}
