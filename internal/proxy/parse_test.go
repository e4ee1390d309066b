package proxy

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func testUID() int { return os.Getuid() }

func TestParseExposure(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Exposure{
		"8443=8080":                      {":8443", "tcp", "127.0.0.1:8080", 8080},
		"127.0.0.1:8443=8080":            {"127.0.0.1:8443", "tcp", "127.0.0.1:8080", 8080},
		"8443=[::1]:8080":                {":8443", "tcp", "[::1]:8080", 8080},
		"8443=localhost:8080":            {":8443", "tcp", "localhost:8080", 8080},
		"10.0.0.5:8443=unix:/run/a.sock": {"10.0.0.5:8443", "unix", "/run/a.sock", 0},
	} {
		got, err := ParseExposure(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" || !got.Local() {
			t.Errorf("%s: local %v, -want +got\n%s", text, got.Local(), diff)
		}
	}
	for _, text := range []string{"", "8443", "=", "8443=", "x=8080", "8443=0", "8443=99999", "8443=unix:rel", "8443=unix:", "8443=a:b:c", "8443=unix:/" + strings.Repeat("x", 200)} {
		if got, err := ParseExposure(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}

func TestParseUpstream(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Upstream{
		"db=127.0.0.1:5432": {"db", "127.0.0.1:5432"},
		"db=5432":           {"db", "127.0.0.1:5432"},
		"db=localhost:5432": {"db", "127.0.0.1:5432"},
		"db=[::1]:5432":     {"db", "[::1]:5432"},
	} {
		if got, err := ParseUpstream(text); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "db", "=5432", "db=0.0.0.0:5432", "db=example.com:5432", "db=x"} {
		if got, err := ParseUpstream(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}

func TestParseAsks(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"127.0.0.1:8181": "127.0.0.1:8181", "8181": "127.0.0.1:8181", "localhost:8181": "127.0.0.1:8181", "[::1]:8181": "[::1]:8181"} {
		if got, err := ParseAsks(text, "/run/kith/authz.sock"); err != nil || got != (Asks{want, "/run/kith/authz.sock"}) {
			t.Errorf("%s: got %+v, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0.0.0.0:8181", "example.com:8181", "x"} {
		if got, err := ParseAsks(text, "/run/kith/authz.sock"); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}

func TestEnviron(t *testing.T) {
	t.Parallel()
	base := []string{"PATH=/bin", "http_proxy=http://old:3128", "NO_PROXY=internal, *", "no_proxy=10.0.0.0/8,internal", "SPIFFE_ENDPOINT_SOCKET=unix:///old"}
	got := Environ(base, "127.0.0.1:4000", "/run/kith/agent.sock")
	const at, direct = "http://127.0.0.1:4000", "10.0.0.0/8,internal,localhost,127.0.0.1,::1"
	want := []string{
		"PATH=/bin",
		"GRPC_PROXY=" + at, "HTTPS_PROXY=" + at, "HTTP_PROXY=" + at, "NO_PROXY=" + direct,
		"SPIFFE_ENDPOINT_SOCKET=unix:///run/kith/agent.sock",
		"grpc_proxy=" + at, "http_proxy=" + at, "https_proxy=" + at, "no_proxy=" + direct,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got := Environ([]string{"http_proxy=x"}, "", ""); len(got) != 1 || got[0] != "http_proxy=x" {
		t.Errorf("without an outbound listener: got %v", got)
	}
}

func TestAttack56ListenTo(t *testing.T) {
	t.Parallel()
	for first, want := range map[string]speech{
		"": unclear, "P": unclear, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r": unclear, preface: speaksH2, preface + "\x00": speaksH2,
		"GET": unclear, "GET ": speaksH1, "PRI /": speaksH1, "PROPFIND ": speaksH1, "\x16": speaksTLS, "\x00\x00": speaksOther,
		strings.Repeat("A", 40): speaksOther, "SSH-2.0-x\r\n": speaksOther,
	} {
		if got := listenTo([]byte(first)); got != want {
			t.Errorf("%q: got %d, want %d", first, got, want)
		}
	}
}

func FuzzParseExposure(f *testing.F) {
	for _, seed := range []string{"8443=8080", "[::1]:1=[::1]:2", "1=unix:/a", "=", "a:b=c:d", "1=[unix]:80", "[a]:1=2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := ParseExposure(text)
		if err != nil {
			return
		}
		again, err := ParseExposure(e.String())
		if err != nil || again != e {
			t.Errorf("%q: %+v is written %q, which is %+v, %v", text, e, e.String(), again, err)
		}
	})
}
