package decisionlog

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/kith-id/kith/internal/pb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quietly() *slog.Logger { return slog.New(slog.DiscardHandler) }

// start runs a log; the function returned ends it and waits.
func start(t *testing.T, cfg Config) (*Log, func()) {
	t.Helper()
	cfg.Now, cfg.Log = time.Now, quietly()
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	ended := false
	end := func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(end)
	return l, end
}

func decision(id, effect string) *pb.Decision {
	return &pb.Decision{
		Id: id, Effect: effect, TimeUnixNano: 1_790_000_000_123_456_789, DurationNanos: 12_345_678,
		From: "spiffe://acme.example/vms/web", To: "orders", ToId: "spiffe://acme.example/vms/orders", Node: "vm-7",
		Protocol: "http", Method: "GET", Path: "/v1/orders/4711", Host: "orders", Port: 8080, Rule: "web-reads", Reason: "allow_rule", Revision: 12,
	}
}

func denial(id string) *pb.Decision {
	d := decision(id, "deny")
	d.Rule, d.Reason, d.NearRule, d.NearField, d.NearGot = "", "no_rule", "web-reads", "method", "canary-found-here"
	return d
}

// count is one counter, or the sum of a sink's.
func count(counters ...prometheus.Counter) float64 {
	sum := 0.0
	for _, c := range counters {
		sum += testutil.ToFloat64(c)
	}
	return sum
}

// lostCount is what the log's first sink did not take.
func (l *Log) lostCount() float64 { return count(l.outlets[0].full, l.outlets[0].failed) }

func eventually(t *testing.T, what string, true func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !true(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		pause := time.NewTimer(2 * time.Millisecond)
		<-pause.C
	}
}

// lines are those of a file, each one whole JSON.
func lines(t *testing.T, path string) []map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]any
	for line := range strings.Lines(string(text)) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%s: %q: %v", path, line, err)
		}
		out = append(out, v)
	}
	return out
}

func TestEveryDenialAndOnlyPickedAllowsAreKept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	l, end := start(t, Config{OPA: File{Path: path}, Templates: true})
	l.Record(decision("notpicked", "allow"))
	picked := decision("picked", "allow")
	picked.Logged = true
	l.Record(picked)
	l.Record(denial("denied"))
	observed := decision("observed", "allow")
	observed.Observed, observed.Reason = true, "no_rule"
	l.Record(observed)
	shadowed := decision("shadowed", "allow")
	shadowed.ShadowEffect, shadowed.ShadowRule, shadowed.ShadowReason = "deny", "stricter", "deny_rule"
	l.Record(shadowed)
	end()
	var got []string
	for _, line := range lines(t, path) {
		result := line["result"].(map[string]any)
		got = append(got, fmt.Sprint(line["decision_id"], " ", result["allow"], " ", result["mode"]))
	}
	want := []string{"picked true enforce", "denied false enforce", "observed true observe", "shadowed true shadow"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := count(l.outlets[0].kept); n != 4 {
		t.Errorf("kept: got %v, want 4", n)
	}
}

func TestAFrozenPipeHoldsNothingUpAndDropsAreCounted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // who never reads
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	l, end := start(t, Config{OPA: File{Path: path}, drain: 200 * time.Millisecond})
	overflow(t, l)
	end() // although a write is under way
}

func TestACollectorThatNeverAnswersHoldsNothingUp(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() // nobody accepts
	for _, scheme := range []string{"grpc", "http"} {
		l, end := start(t, Config{OTLP: Collector{Endpoint: scheme + "://" + silent.Addr().String()}, drain: 200 * time.Millisecond})
		overflow(t, l)
		end()
	}
}

// overflow records more than there is room for. That Record never blocks is that
// this returns: nobody takes anything out of the sink.
func overflow(t *testing.T, l *Log) {
	t.Helper()
	const many = 3 * queued
	for i := range many {
		l.Record(denial(fmt.Sprint(i)))
	}
	if n := l.lostCount(); n < many-queued-2*batch { // a batch under way, and what a pipe holds
		t.Errorf("dropped: got %v of %d, want all but what waits", n, many)
	}
}

func TestAllowsLeaveRoomForDenials(t *testing.T) {
	t.Parallel()
	l, err := New(Config{OPA: File{Path: "/nowhere"}, Now: time.Now, Log: quietly()})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * queued { // nobody serves the sink
		d := decision("a", "allow")
		d.Logged = true
		l.Record(d)
	}
	for range queued / 2 {
		l.Record(denial("d"))
	}
	denials := 0
	for len(l.outlets[0].queue) > 0 {
		if e := <-l.outlets[0].queue; !e.allowed() {
			denials++
		}
	}
	if denials != queued/2 {
		t.Errorf("denials in the queue behind a flood of allows: got %d, want %d", denials, queued/2)
	}
}

func TestAFullDiskIsCountedAndOver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "decisions.jsonl")
	if err := os.Symlink("/dev/full", path); err != nil { // ENOSPC at each write
		t.Fatal(err)
	}
	l, end := start(t, Config{OPA: File{Path: path}})
	l.Record(denial("lost"))
	eventually(t, "the loss is counted", func() bool { return l.lostCount() == 1 })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l.Record(denial("kept"))
	end()
	if got := lines(t, path); len(got) != 1 || got[0]["decision_id"] != "kept" {
		t.Errorf("after there is room again: got %v, want the decision since", got)
	}
}

func TestFilesAreBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	const size, files = 4000, 3
	l, end := start(t, Config{OCSF: File{Path: path, Size: size, Files: files}})
	for i := range 200 {
		l.Record(denial(fmt.Sprint("d", i)))
	}
	end()
	found, err := filepath.Glob(path + "*")
	if err != nil || len(found) != files {
		t.Fatalf("files: got %q, %v, want %d", found, err, files)
	}
	for _, name := range found {
		if info, err := os.Stat(name); err != nil || info.Size() > size {
			t.Errorf("%s: got %v, %v, want at most %d bytes", name, info.Size(), err, size)
		}
	}
	last := lines(t, path)
	if got := last[len(last)-1]["metadata"].(map[string]any)["uid"]; got != "d199" {
		t.Errorf("last line: got %v, want d199", got)
	}
}

func TestAHalfLineOfACrashIsEnded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	if err := os.WriteFile(path, []byte(`{"decision_id":"half`), 0o600); err != nil {
		t.Fatal(err)
	}
	l, end := start(t, Config{OPA: File{Path: path}})
	l.Record(denial("whole"))
	end()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, rest, _ := strings.Cut(string(text), "\n")
	if first != `{"decision_id":"half` || !strings.HasPrefix(rest, `{"type":`) {
		t.Errorf("got %q, want the new line after the half one", text)
	}
}
