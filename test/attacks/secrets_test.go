//go:build attacks

package attacks

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// domain is a server and an agent as two processes on one host, as on a VM.
type domain struct {
	h             *lab.Host
	server, agent *lab.Process
	address       string
	admin         string // where admins come from elsewhere
	metrics       []string
	line          []string // of kith join, used up
}

const state = `services:
  orders: {identities: [/vms/orders], protocol: http, run_as: [root]}
  web:    {identities: [/vms/web], run_as: [root]}
rules:
  - {name: web-reads, from: web, to: orders, allow: ["GET,POST /ok/{**}"]}
`

func newDomain(t *testing.T) *domain {
	t.Helper()
	d := &domain{h: lab.NewHost(t), address: fmt.Sprintf("127.0.0.1:%d", lab.Port(t)), admin: fmt.Sprintf("127.0.0.1:%d", lab.Port(t))}
	d.metrics = []string{fmt.Sprintf("127.0.0.1:%d", lab.Port(t)), fmt.Sprintf("127.0.0.1:%d", lab.Port(t))}
	d.h.WriteConfig(fmt.Sprintf("trust_domain: acme.example\nserver: {listen: %q, address: %q, admin_listen: %q, metrics: %q}\nagent: {metrics: %q}\nlog: {level: debug}\n",
		d.address, d.address, d.admin, d.metrics[0], d.metrics[1]))
	d.server = d.h.Start("kith", "server")
	d.h.WaitReady(d.server)
	d.line = d.addNode(t, "vm-1")
	d.h.Kith(append([]string{"join"}, d.line...)...)
	d.agent = d.h.Start("kith", "agent")
	d.h.Kith("apply", "-f", d.h.WriteFile("state.yaml", state))
	lab.Eventually(t, lab.Soon, "the agent serves", func() error {
		if r := d.h.Try("kith", "get", "svid", "--as", "web", "--dir", filepath.Join(d.h.Dir, "svid-web")); r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		return nil
	})
	return d
}

// addNode is what follows "kith join" in the line that is printed.
func (d *domain) addNode(t *testing.T, name string) []string {
	t.Helper()
	for l := range strings.Lines(d.h.Kith("nodes", "add", name, "--class", "vms")) {
		if f := strings.Fields(l); len(f) >= 3 && f[0] == "kith" && f[1] == "join" {
			return f[2:]
		}
	}
	t.Fatal("kith nodes add printed no join line")
	return nil
}

// privateKeys are how private keys begin in the forms they are written in.
func privateKeys() map[string][]byte {
	return map[string][]byte{
		"a PEM private key":      []byte("PRIVATE KEY-----"),
		"a PKCS#8 P-256 key":     {0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04},
		"a SEC 1 P-256 key":      {0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20},
		"a PKCS#8 Ed25519 key":   {0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20},
		"a PKCS#8 key in base64": []byte("MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg"),
	}
}

// T20, T22 and bar 35: after calls, refusals and a restart no secret is where it
// does not belong: not in logs, metrics, answers and errors, and in no file that
// others can read; the store holds no key in the clear.
func TestThreatT20And22SecretsStayWhereTheyBelong(t *testing.T) {
	d := newDomain(t)
	b := newGoBackend(t)
	exposed := lab.Port(t)
	run := d.h.Start("kith", "run", "--as", "orders", "--log-level", "debug", "--expose", fmt.Sprintf("127.0.0.1:%d=%d", exposed, b.port()), "--", "sleep", "infinity")
	d.h.WaitPort(exposed)
	canaries := map[string][]byte{}
	for _, name := range []string{"cookie", "authorization", "query", "body", "form"} {
		canaries["the "+name+" of a request"] = []byte("canary-" + name + "-7f3a")
	}
	call := func(path string) string {
		r := d.h.Try("kith", "run", "--as", "web", "--log-level", "debug", "--", "curl", "-sv", "-m", "20", "-b", "a=canary-cookie-7f3a", "-H", "Authorization: Bearer canary-authorization-7f3a",
			"-d", "x=canary-body-7f3a", "http://orders"+path+"?token=canary-query-7f3a")
		said := r.Stdout
		for l := range strings.Lines(r.Stderr) { // curl tells what it sends, and that is no news
			if !strings.HasPrefix(l, "> ") && !strings.HasPrefix(l, "*") {
				said += l
			}
		}
		return strings.ReplaceAll(said, "saw /ok/a?token=canary-query-7f3a", "")
	}
	lab.Eventually(t, lab.Soon, "a call passes", func() error {
		if call("/ok/a"); len(b.seen()) == 0 {
			return fmt.Errorf("nothing arrived; %s", run.Output())
		}
		return nil
	})
	texts := map[string]string{"an allowed call": call("/ok/a"), "a denied call": call("/secret"), "an unclear call": call("/%2f")}
	token := d.line[0][strings.LastIndexByte(d.line[0], '/')+1:]
	texts["a second join"] = mustFail(t, lab.NewHost(t), "a second join with one token", "kith", "join", d.line[0])
	texts["kith why"] = d.h.Kith("why", "last")
	d.useTokens(t, canaries, texts)
	texts["kith status"] = d.h.Kith("status")
	for _, address := range d.metrics {
		for _, path := range []string{"/metrics", "/healthz", "/debug/pprof/", "/debug/vars", "/", "/config", "/debug/pprof/heap"} {
			texts[address+path] = fetch(t, "http://"+address+path)
		}
	}
	d.server.Stop()
	d.agent.Stop()
	texts["the server's output"], texts["the agent's output"], texts["the proxy's output"] = d.server.Output(), d.agent.Output(), run.Output()

	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) < 16 {
		t.Fatalf("token %q: %d bytes, %v", token, len(raw), err)
	}
	canaries["the join token"], canaries["the join token, raw"] = []byte(token), raw
	kek, err := os.ReadFile(filepath.Join(d.h.Dir, "state", "kek"))
	if err != nil {
		t.Fatal(err)
	}
	canaries["the key encryption key"] = kek
	for what, bytes := range privateKeys() {
		canaries[what] = bytes
	}
	for where, text := range texts {
		for what, secret := range canaries {
			if bytes.Contains([]byte(text), secret) {
				t.Errorf("%s holds %s", where, what)
			}
		}
	}
	scanLogs(t, d.h, canaries)
	scanFiles(t, filepath.Join(d.h.Dir, "state"), canaries)
	scanFiles(t, filepath.Join(d.h.Dir, "run"), canaries)
}

// useTokens fetches, validates and refuses a JWT-SVID, lets an admin join, and
// adds what each of it must not leave behind, with the key of an SVID.
func (d *domain) useTokens(t *testing.T, canaries map[string][]byte, texts map[string]string) {
	t.Helper()
	jwt := strings.TrimSpace(d.h.Kith("get", "jwt", "--as", "web", "--audience", "orders"))
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("kith get jwt: %q", jwt)
	}
	canaries["the claims of a JWT-SVID"], canaries["the signature of a JWT-SVID"] = []byte(parts[1]), []byte(parts[2])
	for _, audience := range []string{"orders", "billing"} {
		r := d.h.Try("sh", "-c", `"$0" get jwt --as orders --audience "$1" --validate <"$2"`, program(t, d.h), audience, d.h.WriteFile("token", jwt))
		if (r.Code == 0) != (audience == "orders") {
			t.Errorf("validation for %s: %+v", audience, r)
		}
		texts["validation for "+audience] = r.Stdout + r.Stderr
	}
	var line string
	for _, word := range strings.Fields(d.h.Kith("ids", "admins", "add", "alice", "--role", "viewer")) {
		if raw, err := base64.RawURLEncoding.DecodeString(word[strings.LastIndexByte(word, '/')+1:]); err == nil && len(raw) >= 32 {
			line, canaries["the admin's token"], canaries["the admin's token, raw"] = word, []byte(word[strings.LastIndexByte(word, '/')+1:]), raw
		}
	}
	if line == "" {
		t.Fatal("kith ids admins add printed no join line")
	}
	elsewhere := lab.NewHost(t)
	texts["an admin's join"] = elsewhere.Kith("join", "--admin", line)
	texts["an admin's second join"] = mustFail(t, lab.NewHost(t), "a second join with an admin's token", "kith", "join", "--admin", line)
	scanLogs(t, elsewhere, canaries)

	text, err := os.ReadFile(filepath.Join(d.h.Dir, "svid-web", "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("key.pem holds no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := key.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	canaries["the web key"], canaries["the web key in hex"] = scalar, []byte(hex.EncodeToString(scalar))
	canaries["the web key in decimal"] = []byte(new(big.Int).SetBytes(scalar).String())
}

// scanLogs looks for secrets in all that programs on a host have written to
// their standard streams, from the beginning.
func scanLogs(t *testing.T, h *lab.Host, secrets map[string][]byte) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(h.Dir, "log", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for what, secret := range secrets {
			if bytes.Contains(text, secret) {
				t.Errorf("%s holds %s", log, what)
			}
		}
	}
}

// scanFiles looks for secrets in every file. Private keys of the agent and its
// workloads are in its own directory, in files nobody else can read; the key
// encryption key is its own file.
func scanFiles(t *testing.T, root string, secrets map[string][]byte) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		files++
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		for what, secret := range secrets {
			own := strings.HasPrefix(name, "agent/") && strings.Contains(what, " key") && what != "the key encryption key" || name == "kek" && what == "the key encryption key"
			if !own && bytes.Contains(text, secret) {
				t.Errorf("%s holds %s", path, what)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files == 0 && strings.HasSuffix(root, "state") {
		t.Errorf("%s is empty: nothing was looked at", root)
	}
}

// fetch is the body of a page, at most a MiB of it.
func fetch(t *testing.T, url string) string {
	t.Helper()
	client := &http.Client{Timeout: lab.Soon}
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(url, "/debug/") && res.StatusCode == http.StatusOK {
		t.Errorf("%s is served", url)
	}
	return string(body)
}

// T39 and attack 68: what callers choose is no label, and does not grow memory.
func TestThreatT39NamesFromOutsideAreNoLabels(t *testing.T) {
	d := newDomain(t)
	b := newGoBackend(t)
	exposed := lab.Port(t)
	run := d.h.Start("kith", "run", "--as", "orders", "--expose", fmt.Sprintf("127.0.0.1:%d=%d", exposed, b.port()), "--", "sleep", "infinity")
	d.h.WaitPort(exposed)
	s := &stage{t: t, h: d.h, addr: fmt.Sprintf("127.0.0.1:%d", exposed), svid: getSVID(t, d.h, "web")}
	lab.Eventually(t, lab.Soon, "a call passes", func() error {
		if got := s.say("GET /ok/a HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n"); got.ok() == 0 {
			return fmt.Errorf("%v %s", got.status, run.Output())
		}
		return nil
	})
	count := func() (series int) {
		for _, address := range d.metrics {
			for l := range strings.Lines(fetch(t, "http://"+address+"/metrics")) {
				if !strings.HasPrefix(l, "#") {
					series++
				}
				if strings.Contains(l, "evil-") {
					t.Fatalf("a label from outside: %s", l)
				}
			}
		}
		return series
	}
	flood := func(kind string) {
		var raw strings.Builder
		for i := range 2000 {
			fmt.Fprintf(&raw, "EVIL%d /evil-%s%d/x HTTP/1.1\r\nHost: evil-%d.example\r\nUser-Agent: evil-%d\r\n\r\n", i, kind, i, i, i)
		}
		if got := s.say(raw.String()); len(got.status) == 0 || got.ok() > 0 {
			t.Fatalf("flood: %v", got.status)
		}
	}
	flood("first")
	before := count()
	flood("second")
	lab.Eventually(t, lab.Soon, "the metrics stand still", func() error {
		if now := count(); now > before+20 {
			return fmt.Errorf("%d series, then %d", before, now)
		}
		return nil
	})
	output := run.Output()
	if n := strings.Count(output, "evil-"); n > 4000 {
		t.Errorf("%d lines of a flood are in the log", n)
	}
	if strings.ContainsAny(output, "\x1b\r") {
		t.Errorf("the log holds control bytes: %q", output)
	}
}

// Attack 65: an agent whose server is away serves what it has.
func TestAttack65ServerAwayChangesNothingAtOnce(t *testing.T) {
	d := newDomain(t)
	d.server.Kill()
	begin := time.Now()
	d.h.Kith("get", "svid", "--as", "web", "--dir", filepath.Join(d.h.Dir, "again"))
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("a cached SVID took %v", took)
	}
}
