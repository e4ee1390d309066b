package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
)

func TestEmptyFileIsDefault(t *testing.T) {
	for _, text := range []string{"", "\n# nothing\n", "---\n", "server:\nlog:\n"} {
		got, err := config.Parse("kith.yaml", []byte(text))
		if err != nil {
			t.Fatalf("Parse(%q): %v", text, err)
		}
		if diff := cmp.Diff(config.Default(), got); diff != "" {
			t.Errorf("Parse(%q) differs from Default (-want +got):\n%s", text, diff)
		}
	}
}

func TestEveryKeyIsRead(t *testing.T) {
	got, err := config.Parse("kith.yaml", []byte(`
trust_domain: acme.example
log: {level: debug, format: json}
server:
  name: s1
  listen: 10.0.0.1:8440
  address: kith.acme.example:8440
  metrics: ""
  socket: /run/k/admin.sock
  kek_file: /etc/kith/kek
agent:
  server: kith.acme.example:8440
  pin: sha256-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  advertise: 10.0.0.7
  metrics: "[::1]:9000"
  socket: /run/k/agent.sock
survive: {control_plane_outage: 12h}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := config.File{
		TrustDomain: "acme.example",
		Log:         config.Log{Level: "debug", Format: "json"},
		Server: config.Server{
			Name: "s1", Listen: "10.0.0.1:8440", Address: "kith.acme.example:8440",
			Socket: "/run/k/admin.sock", KEKFile: "/etc/kith/kek",
			Audit: config.Audit{FileSize: 64 << 20, Files: 16},
		},
		Agent: config.Agent{
			DecisionLog: config.Default().Agent.DecisionLog,
			Server:      "kith.acme.example:8440",
			Pin:         "sha256-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
			Advertise:   "10.0.0.7", Metrics: "[::1]:9000", Socket: "/run/k/agent.sock",
		},
		Survive: config.Survive{ControlPlaneOutage: config.Duration(12 * time.Hour)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFaultsNameTheLine(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"misspelt key", "\n\n\n\n\n\ntrust_domian: a.example\n", `kith.yaml:7: unknown key "trust_domian" (nearest: trust_domain)`},
		{"nested key", "server:\n  lisen: :1\n", `kith.yaml:2: unknown key "lisen" (nearest: listen)`},
		{"no near key", "log: {colour: true}", `kith.yaml:1: unknown key "colour" (known: level, format)`},
		{"applied state", "services: {}", `kith.yaml:1: key "services" does not belong here: it is applied state; put it in its own file and run: kith apply -f FILE`},
		{"twice", "trust_domain: a.example\ntrust_domain: b.example", `kith.yaml:2: key "trust_domain" twice (first in line 1)`},
		{"list for text", "server:\n  listen: [a]", `kith.yaml:2: want text, got a list`},
		{"number for text", "agent:\n  advertise: 1.5", `kith.yaml:2: 1.5 is a number, not text: put it in quotes`},
		{"text for section", "server: yes", `kith.yaml:1: want keys and values, got "yes"`},
		{"duration without unit", "survive:\n  control_plane_outage: 30", `kith.yaml:2: "30" is not a duration: write it like 30s, 10m or 24h`},
		{"level", "log:\n  level: wran", `kith.yaml:2: "wran" is not one of debug, info, warn, error (nearest: warn)`},
		{"alias", "log: {level: &l info}\nserver: {name: *l}", `kith.yaml:2: aliases are not read: write the value out`},
		{"merge", "log: &l {level: info}\nserver:\n  <<: *l", `kith.yaml:3: merge keys are not read: write the values out`},
		{"second document", "log:\n---\nlog: {level: info}\n", `kith.yaml:3: a second document (---): kith.yaml is one`},
		{"not YAML", "log:\n\tlevel: info", `kith.yaml:2: found character that cannot start any token`},
		{"a list", "- a", `kith.yaml:1: want keys and values, got a list`},
		{"nothing", "trust_domain:", `kith.yaml:1: want text, got nothing`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := config.Parse("kith.yaml", []byte(tc.text))
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("kind = %v, want invalid", fault.KindOf(err))
			}
		})
	}
}

// AuthZEN 9.1.1: a decision point is named by an https URL; here by its origin alone,
// behind which the standard's paths stand.
func TestAuthZEN911TheURLIsAnOriginOfHTTPS(t *testing.T) {
	for text, sound := range map[string]bool{
		"https://pdp.example": true, "https://pdp.example:8443": true, "https://[::1]:8443": true,
		"http://pdp.example": false, "https://": false, "https://:8443": false, "https://pdp.example/": false, "https://pdp.example/tenant": false,
		"https://pdp.example?a": false, "https://pdp.example#a": false, "https://me@pdp.example": false, "HTTPS://pdp.example": false, "pdp.example": false,
	} {
		if err := config.CheckAuthZENURL(text); (err == nil) != sound {
			t.Errorf("%q: %v, want it taken: %t", text, err, sound)
		}
	}
	if _, err := config.Parse("k", []byte("agent: {authzen_url: 'http://x'}")); err == nil || !strings.Contains(err.Error(), "agent.authzen_url: ") {
		t.Errorf("got %v", err)
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	_, err := config.Parse("k", []byte("a: 1\nserver: {b: 2}\nlog: {level: 7}\n"))
	if got := strings.Count(err.Error(), "\n") + 1; got != 3 {
		t.Errorf("%d faults, want 3:\n%v", got, err)
	}
	_, err = config.Parse("k", []byte("trust_domain: UPPER\nserver: {listen: x, name: a/b}\nagent: {pin: x, server: ':1'}\nsurvive: {control_plane_outage: 1s}"))
	for _, path := range []string{"trust_domain: ", "server.listen: ", "server.name: ", "agent.pin: ", "agent.server: ", "survive.control_plane_outage: "} {
		if !strings.Contains(err.Error(), path) {
			t.Errorf("no fault of %s in:\n%v", path, err)
		}
	}
	_, err = config.Parse("k", []byte(strings.Repeat("? [x]\n: 1\n", 100)))
	if got := strings.Count(err.Error(), "\n"); got != 20 || !strings.HasSuffix(err.Error(), "k: 80 more") {
		t.Errorf("100 faults are not cut to 20:\n%v", err)
	}
}

func TestAuditKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kith.yaml")
	for text, want := range map[string]string{
		`{file_size: 128KiB, files: 3}`: "", `{file_size: 1GiB}`: "", `{files: 1}`: "files", `{files: many}`: "whole number", `{files: "3"}`: "whole number",
		`{file_size: 1048576}`: "not a size", `{file_size: 1TiB}`: "not a size", `{file_size: 2GiB}`: "file_size", `{file_size: 99999999999MiB}`: "not a size", `{file_size: 0x10KiB}`: "not a size",
	} {
		if err := os.WriteFile(path, []byte("server: {audit: "+text+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := config.Load(path)
		if want == "" && (err != nil || file.Server.Audit.Files < 2) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %+v, %v, want %q", text, file.Server.Audit, err, want)
		}
	}
	for size, want := range map[config.Size]string{64 << 10: "64KiB", 3 << 20: "3MiB", 1 << 30: "1GiB", 1<<20 + 1<<10: "1025KiB", 7: "7 bytes"} {
		if size.String() != want {
			t.Errorf("%d is written %s, want %s", int64(size), size, want)
		}
	}
}

func TestFederationKeys(t *testing.T) {
	for text, want := range map[string]string{
		`{spiffe_listen: ":8443", web: {listen: ":443", cert_file: c, key_file: k}, allow: [127.0.0.0/8]}`: "",
		`{web: {listen: ":443", acme: {domain: bundles.acme.example, accept_terms: true}}}`:                "",
		`{spiffe_listen: nowhere}`:              "server.federation.spiffe_listen: ",
		`{web: {listen: ":443"}}`:               "without a certificate",
		`{web: {cert_file: c, key_file: k}}`:    "server.federation.web.listen: empty",
		`{web: {listen: ":443", cert_file: c}}`: "belong together",
		`{web: {listen: ":443", cert_file: c, key_file: k, acme: {domain: a.example, accept_terms: true}}}`:          "one of them",
		`{web: {listen: ":443", acme: {domain: a.example}}}`:                                                         "accept_terms: must be true",
		`{web: {listen: ":443", acme: {domain: "a/b", accept_terms: true}}}`:                                         "acme.domain: ",
		`{web: {listen: ":443", acme: {domain: a.example, accept_terms: true, directory: "http://ca.example/dir"}}}`: "is not an https URL",
		`{allow: [localhost]}`: "server.federation.allow: ",
	} {
		_, err := config.Parse("k", []byte("server: {federation: "+text+"}"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestOIDCKeys(t *testing.T) {
	for text, want := range map[string]string{
		`{issuer: "https://oidc.acme.example"}`: "",
		`{issuer: "https://oidc.acme.example", web: {listen: ":443", acme: {domain: oidc.acme.example, accept_terms: true}}}`: "",
		`{issuer: "https://oidc.acme.example", behind: "127.0.0.1:8445"}`:                                                     "",
		`{issuer: "https://oidc.acme.example", behind: "unix:/run/kith/oidc.sock"}`:                                           "",
		`{issuer: "http://oidc.acme.example"}`:                                                                                "server.oidc.issuer: scheme",
		`{issuer: "https://oidc.acme.example/"}`:                                                                              "server.oidc.issuer: ",
		`{behind: "127.0.0.1:8445"}`:                                                                                          "server.oidc.issuer: empty",
		`{web: {listen: ":443", cert_file: c, key_file: k}}`:                                                                  "server.oidc.issuer: empty",
		`{issuer: "https://oidc.acme.example", behind: ":8445"}`:                                                              "not on loopback",
		`{issuer: "https://oidc.acme.example", behind: "10.0.0.1:8445"}`:                                                      "not on loopback",
		`{issuer: "https://oidc.acme.example", behind: "unix:oidc.sock"}`:                                                     "begins with a slash",
		`{issuer: "https://oidc.acme.example", behind: "nowhere"}`:                                                            "server.oidc.behind: ",
		`{issuer: "https://oidc.acme.example", web: {listen: ":443"}}`:                                                        "server.oidc.web: listens without a certificate",
		`{issuer: "https://oidc.acme.example", web: {listen: ":443", cert_file: c}}`:                                          "belong together",
	} {
		_, err := config.Parse("k", []byte("server: {oidc: "+text+"}"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestBrokerKeys(t *testing.T) {
	for text, want := range map[string]string{
		`{features: {broker: true}, agent: {broker: {allow: [{id: /vms/mesh, for: [/vms/orders, "/vms/*", "/shop/**", "/**"]}]}}}`: "",
		`{features: {broker: true}, agent: {broker: {socket: /run/b.sock, group: mesh, allow: [{id: /vms/mesh, for: [/a]}]}}}`:     "",
		`{features: {broker: true}}`:                                                                         "agent.broker.allow: empty",
		`{agent: {broker: {allow: [{id: /vms/mesh, for: [/a]}]}}}`:                                           "features.broker: false",
		`{features: {broker: true}, agent: {broker: {allow: [{id: /vms/mesh}]}}}`:                            "agent.broker.allow[0].for: empty",
		`{features: {broker: true}, agent: {broker: {allow: [{for: [/a]}]}}}`:                                "agent.broker.allow[0].id: ",
		`{features: {broker: true}, agent: {broker: {allow: [{id: "/vms/*", for: [/a]}]}}}`:                  "agent.broker.allow[0].id: ",
		`{features: {broker: true}, agent: {broker: {allow: [{id: "spiffe://acme.example/a", for: [/a]}]}}}`: "no path of an identity",
		`{features: {broker: true}, agent: {broker: {allow: [{id: /vms/mesh, for: ["/kith/**"]}]}}}`:         "is reserved",
		`{features: {broker: true}, agent: {broker: {allow: [{id: /vms/mesh, for: ["/vms/web-*"]}]}}}`:       "no path of an identity",
		`{features: {broker: true}, agent: {broker: {allow: [{id: /vms/mesh, for: ["/a/**/b"]}]}}}`:          "no path of an identity",
		`{features: {broker: true}, agent: {broker: {allow: [{id: /vms/mesh, for: ["/a//b"]}]}}}`:            "no path of an identity",
		`{features: {broker: true}, agent: {broker: {allow: [{id: /kith/node/a, for: [/a]}]}}}`:              "is reserved",
		`{features: {broker: true}, agent: {broker: {allow: [{id: /a, for: [/a]}, {id: /a, for: [/b]}]}}}`:   "stands twice",
		`{features: {broker: true}, agent: {broker: {socket: b.sock, allow: [{id: /a, for: [/a]}]}}}`:        "agent.broker.socket: ",
	} {
		_, err := config.Parse("k", []byte(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestLoadBounds(t *testing.T) {
	dir := t.TempDir()
	if _, err := config.Load(filepath.Join(dir, "none")); !fault.Is(err, fault.NotFound) {
		t.Errorf("Load of no file: %v, want not_found", err)
	}
	if f, err := config.LoadOptional(filepath.Join(dir, "none")); err != nil || !cmp.Equal(f, config.Default()) {
		t.Errorf("LoadOptional of no file = %v, %v", f, err)
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, config.MaxFileSize+1); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(big); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "larger than 16 MiB") {
		t.Errorf("Load of 16 MiB + 1: %v", err)
	}
	if _, err := config.Load(dir); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load of a directory: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("trust_domain: acme.example\nlog: {level: debug}\nserver: {listen: ':8440'}\n")
	f.Add("a: &a [*a, *a]\n<<: *a\n")
	f.Add("? {a: b}\n: - c\n--- !!binary x\n...")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := config.Parse("f", []byte(text))
		if err == nil && file.Validate() != nil {
			t.Errorf("accepted and not valid: %v", file.Validate())
		}
		if err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("kind %v, want invalid: %v", fault.KindOf(err), err)
		}
	})
}

func TestDecisionLogIsChecked(t *testing.T) {
	good, err := load(t, `agent: {decision_log: {allows: 0.01, path: raw, headers: ["*"], opa: {path: /var/log/d.jsonl, size: 1MiB, files: 2}}}`)
	if err != nil || good.Agent.DecisionLog.Allows != 0.01 || good.Agent.DecisionLog.OPA.Size != 1<<20 {
		t.Fatalf("got %+v, %v", good.Agent.DecisionLog, err)
	}
	for text, want := range map[string]string{
		"allows: 1.5":                       "not a number from 0 to 1",
		"allows: NaN":                       "not a number from 0 to 1",
		"path: short":                       "not one of template, raw",
		"ocsf: {path: d.jsonl}":             "agent.decision_log.ocsf.path",
		"opa: {size: 1KiB}":                 "agent.decision_log.opa.size",
		"opa: {files: 1}":                   "agent.decision_log.opa.files",
		"mask: {query: ['a b']}":            "agent.decision_log.mask.query[0]",
		"ocsf: {path: /a}, opa: {path: /a}": "that of ocsf",
	} {
		if _, err := load(t, "agent: {decision_log: {"+text+"}}"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want it to say %q", text, err, want)
		}
	}
}

// load is a file of this text, as a start reads it.
func load(t *testing.T, text string) (config.File, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kith.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Load(path)
}
