package obs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/obs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log, err := obs.NewLogger(obs.LogConfig{Out: &out, Level: "warn", Format: "json"})
	if err != nil {
		t.Fatal(err)
	}
	log.Info("too small")
	log.Warn("seen", "node", "vm-7")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	if line["msg"] != "seen" || line["node"] != "vm-7" || line["level"] != "WARN" {
		t.Errorf("got %v", line)
	}
	if _, err := obs.NewLogger(obs.LogConfig{Out: &out}); err != nil {
		t.Errorf("defaults: %v", err)
	}
}

func TestLoggerRefusesUnknownWords(t *testing.T) {
	for _, cfg := range []obs.LogConfig{{Level: "loud"}, {Format: "xml"}} {
		if _, err := obs.NewLogger(cfg); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Errorf("%+v: %v, want an invalid error with a hint", cfg, err)
		}
	}
}

// get returns the status and body of a plain GET.
func get(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestMetricsServer(t *testing.T) {
	sick := make(chan error, 1)
	m, err := obs.NewMetrics(obs.MetricsConfig{
		Address: "127.0.0.1:0", Gatherer: obs.NewRegistry(),
		Health: func() error {
			select {
			case err := <-sick:
				return err
			default:
				return nil
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	base := "http://" + m.Addr()

	if code, body := get(t, "GET", base+"/metrics"); code != 200 || !strings.Contains(body, "kith_build_info{") || !strings.Contains(body, "go_goroutines") {
		t.Errorf("/metrics: %d\n%.300s", code, body)
	}
	if code, body := get(t, "GET", base+"/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("/healthz: %d %q", code, body)
	}
	sick <- errors.New("store away")
	if code, body := get(t, "GET", base+"/healthz"); code != 503 || body != "store away\n" {
		t.Errorf("/healthz when ill: %d %q", code, body)
	}
	if code, _ := get(t, "GET", base+"/debug/pprof/"); code != 404 {
		t.Errorf("another path: %d, want 404", code)
	}
	if code, _ := get(t, "POST", base+"/metrics"); code != 405 {
		t.Errorf("POST: %d, want 405", code)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestMetricsPortTaken(t *testing.T) {
	cfg := obs.MetricsConfig{Address: "127.0.0.1:0", Gatherer: obs.NewRegistry()}
	m, err := obs.NewMetrics(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	cfg.Address = m.Addr()
	if _, err := obs.NewMetrics(cfg); !fault.Is(err, fault.Conflict) || fault.HintOf(err) == "" {
		t.Errorf("got %v, want a conflict with a hint", err)
	}
}

func TestBuildVersion(t *testing.T) {
	v := obs.BuildVersion()
	if v.Version == "" || !strings.HasPrefix(v.Go, "go1.") || !strings.Contains(v.Platform, "/") {
		t.Errorf("got %+v", v)
	}
	v = obs.Version{Version: "v1.2.3", Commit: strings.Repeat("a", 40), Modified: true, Go: "go1.26", Platform: "linux/arm64"}
	if got, want := v.String(), "kith v1.2.3 (aaaaaaaaaaaa with local changes, go1.26, linux/arm64)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNowIsTheClock(t *testing.T) {
	if d := time.Since(obs.Now()).Abs(); d > time.Minute {
		t.Errorf("off by %v in a build without the test tag", d)
	}
}
