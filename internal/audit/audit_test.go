package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

func now() time.Time { return time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC) }

func open(t testing.TB, path string) *Log {
	t.Helper()
	l, err := Open(Config{Path: path, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// headIn verifies a log and returns where it ends.
func headIn(path string) (Head, error) {
	report, err := Verify(path, Head{})
	return report.Head, err
}

// headOfText verifies the text of a log that is one file.
func headOfText(text []byte) (Head, error) {
	c := chain{head: Head{Hash: zeroHash()}}
	if err := c.read(bytes.NewReader(text)); err != nil {
		return c.head, err
	}
	return c.head, c.checkStart()
}

func event(n int) Event {
	return Event{
		Kind: Issued, Actor: "spiffe://acme.example/kith/node/a", Object: fmt.Sprintf("spiffe://acme.example/w%d", n),
		Outcome: "ok", Revision: uint64(n), Facts: map[string]string{"serial": fmt.Sprint(n)},
	}
}

func record(t testing.TB, l *Log, count int) {
	t.Helper()
	for n := range count {
		if err := l.Record(t.Context(), event(n)); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestChainContinuesOverRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for range 3 {
		l := open(t, path)
		record(t, l, 4)
		head := l.Head()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := headIn(path); err != nil || got != head {
			t.Fatalf("Verify = %+v, %v, want %+v", got, err, head)
		}
	}
	if head, err := headIn(path); err != nil || head.Seq != 12 {
		t.Errorf("Verify = %+v, %v", head, err)
	}
	first, _, _ := bytes.Cut(read(t, path), []byte("\n"))
	want := `{"seq":1,"time":"2026-05-04T12:00:00Z","kind":"issued","phase":"single","actor":"spiffe://acme.example/kith/node/a","object":"spiffe://acme.example/w0","outcome":"ok","facts":{"serial":"0"},"prev":"` + strings.Repeat("0", 64) + `"}`
	if string(first) != want {
		t.Errorf("first line is\n%s, want\n%s", first, want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// T18: whatever is changed in the file shows.
func TestVerifyFindsTampering(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	record(t, l, 5)
	head := l.Head()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	content := read(t, path)
	lines := bytes.SplitAfter(content, []byte("\n"))[:5]
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, changed := range map[string][]byte{
		"word":      bytes.Replace(content, []byte("w2"), []byte("w9"), 1),
		"missing":   join(lines[0], lines[1], lines[3], lines[4]),
		"first cut": join(lines[1:]...),
		"moved":     join(lines[0], lines[2], lines[1], lines[3], lines[4]),
		"twice":     join(lines[0], lines[1], lines[1], lines[2]),
		"rubbish":   join(lines[0], []byte("hello\n"), lines[1]),
		"blank":     join(lines[0], []byte("\n"), lines[1]),
		"long":      join(lines[0], bytes.Repeat([]byte("a"), maxLine+1), []byte("\n")),
		"spaces":    bytes.Replace(content, []byte(`"seq":2,`), []byte(`"seq": 2,`), 1),
	} {
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := headIn(path); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Errorf("%s: Verify = %+v, %v", name, got, err)
		}
	}
	// Lines cut off the end show in the head only.
	if err := os.WriteFile(path, join(lines[:3]...), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := headIn(path); err != nil || got == head || got.Seq != 3 {
		t.Errorf("cut: Verify = %+v, %v", got, err)
	}
	for i := range content[:len(content)-len(lines[4])] { // every byte but those of the last line
		changed := append([]byte{}, content...)
		changed[i] ^= 1
		if got, err := headOfText(changed); err == nil && got == head {
			t.Fatalf("byte %d changed: not found", i)
		}
	}
}

// A crash may cut the last line at any byte; what was acknowledged stays.
func TestOpenAfterAnyCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	record(t, l, 3)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	content := read(t, path)
	lines := bytes.SplitAfter(content, []byte("\n"))
	whole := len(content) - len(lines[2])
	for cut := whole; cut < len(content); cut++ {
		if err := os.WriteFile(path, content[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, path)
		if head := l.Head(); head.Seq != 2 {
			t.Fatalf("cut at %d: head %+v", cut, head)
		}
		record(t, l, 1)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if head, err := headIn(path); err != nil || head.Seq != 3 {
			t.Fatalf("cut at %d: Verify = %+v, %v", cut, head, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"text": "hello\n", "endless": strings.Repeat("a", 3*maxLine), "zero": `{"seq":0}` + "\n", "long": "x\n" + strings.Repeat("a", 2*maxLine) + "\n"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Path: path, Now: now}); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if got := read(t, path); string(got) != content {
			t.Errorf("%s: the file was changed", name)
		}
	}
	path := filepath.Join(dir, "log")
	l := open(t, path)
	defer l.Close()
	if _, err := Open(Config{Path: path, Now: now}); !fault.Is(err, fault.Conflict) {
		t.Errorf("a second writer: %v", err)
	}
	if err := os.Symlink(path, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Path: filepath.Join(dir, "link"), Now: now}); err == nil {
		t.Error("a link was followed")
	}
}

// faulty is a file whose operations fail as told.
type faulty struct {
	mu                  sync.Mutex
	content             []byte
	writeErr, syncErr   error
	truncateErr         error
	partial             int
	writes, syncs, cuts int
}

func (f *faulty) WriteAt(p []byte, at int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	if f.writeErr != nil {
		f.content = append(f.content[:at:at], p[:min(f.partial, len(p))]...)
		return f.partial, f.writeErr
	}
	f.content = append(f.content[:at:at], p...)
	return len(p), nil
}

func (f *faulty) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cuts++
	if f.truncateErr != nil {
		return f.truncateErr
	}
	f.content = f.content[:size]
	return nil
}

func (f *faulty) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.syncs++
	return f.syncErr
}

func (*faulty) Close() error { return nil }

func onFaulty(t *testing.T, f *faulty) *Log {
	t.Helper()
	l, err := resume(Config{Path: "test", Now: now}, bytes.NewReader(nil), f, 0)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestFullDiskIsAnErrorAndPasses(t *testing.T) {
	f := &faulty{}
	l := onFaulty(t, f)
	record(t, l, 2)
	f.writeErr, f.partial = syscall.ENOSPC, 20
	err := l.Record(t.Context(), event(9))
	if !errors.Is(err, syscall.ENOSPC) || fault.HintOf(err) == "" {
		t.Errorf("on a full disk: %v", err)
	}
	f.writeErr = nil
	record(t, l, 1)
	if head, err := headOfText(f.content); err != nil || head != l.Head() || head.Seq != 3 {
		t.Errorf("after there was space: %+v, %v", head, err)
	}
}

func TestUnknownEndStopsTheLog(t *testing.T) {
	for name, f := range map[string]*faulty{
		"sync":     {syncErr: syscall.EIO},
		"truncate": {writeErr: syscall.ENOSPC, truncateErr: syscall.EIO},
	} {
		l := onFaulty(t, f)
		if err := l.Record(t.Context(), event(1)); err == nil {
			t.Errorf("%s: acknowledged", name)
		}
		if err := l.Broken(); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: broken by %v, want EIO", name, err)
		}
		f.syncErr, f.writeErr, f.truncateErr = nil, nil, nil
		if err := l.Record(t.Context(), event(1)); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: goes on with %v", name, err)
		}
	}
}

func TestEventsGatherInOneSync(t *testing.T) {
	f := &faulty{}
	l := onFaulty(t, f)
	l.disk.Lock() // as if a write were on its way
	var wait sync.WaitGroup
	bad := Event{Kind: Issued, Facts: map[string]string{"a": strings.Repeat("a", maxLine)}}
	for n := range 40 {
		wait.Go(func() {
			if err := l.RecordAll(t.Context(), []Event{event(n), event(n)}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Go(func() {
		if err := l.RecordAll(t.Context(), []Event{event(1), bad}); err == nil {
			t.Error("an event over the limit was taken")
		}
	})
	for gathered := 0; gathered < 41; runtime.Gosched() {
		l.mu.Lock()
		gathered = len(l.next.groups)
		l.mu.Unlock()
	}
	if err := l.RecordAll(t.Context(), make([]Event, maxWaiting)); err == nil {
		t.Error("events without a kind were taken")
	}
	many := make([]Event, maxWaiting)
	for i := range many {
		many[i] = event(i)
	}
	if err := l.RecordAll(t.Context(), many); err == nil || !strings.Contains(err.Error(), "are waiting") {
		t.Errorf("with too many waiting: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Record(ctx, event(99)); !errors.Is(err, context.Canceled) {
		t.Errorf("a follower whose ctx has ended: %v", err)
	}
	l.disk.Unlock()
	wait.Wait()
	if f.writes != 1 || f.syncs != 1 {
		t.Errorf("%d writes and %d syncs, want one each", f.writes, f.syncs)
	}
	// 40 groups of two, the one whose caller had gone, and nothing of the bad one.
	if head, err := headOfText(f.content); err != nil || head.Seq != 81 {
		t.Errorf("Verify = %+v, %v", head, err)
	}
}

func TestEventsAreChecked(t *testing.T) {
	l := onFaulty(t, &faulty{})
	facts := map[string]string{}
	for i := range maxAttributes + 1 {
		facts[fmt.Sprint(i)] = ""
	}
	for name, e := range map[string]Event{
		"no kind":   {},
		"kind":      {Kind: "guessed"},
		"phase":     {Kind: Issued, Phase: "during"},
		"facts":     {Kind: Issued, Facts: facts},
		"not UTF-8": {Kind: Issued, Actor: "\xff"},
	} {
		if err := l.Record(t.Context(), e); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, phase := range []Phase{Before, After, Single, ""} {
		if err := l.Record(t.Context(), Event{Kind: Changed, Phase: phase, Object: "rule a\n{\"seq\":9}"}); err != nil {
			t.Error(err)
		}
	}
	if err := l.RecordAll(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if l.Head().Seq != 4 {
		t.Errorf("head is %+v", l.Head())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Record(t.Context(), event(1)); err == nil {
		t.Error("a closed log took an event")
	}
}

func FuzzVerify(f *testing.F) {
	path := filepath.Join(f.TempDir(), "audit.jsonl")
	l := open(f, path)
	record(f, l, 2)
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(read(f, path))
	f.Add([]byte("{}\n"))
	f.Add([]byte(""))
	last := fmt.Appendf(nil, `{"seq":%d,"prev":"x"}`+"\n", uint64(math.MaxUint64))
	f.Add(fmt.Appendf(last, `{"prev":%q,"kind":%q,"facts":{"to":"%d","hash":"x"}}`+"\n", hashOf(last), Dropped, uint64(math.MaxUint64-1)))
	f.Fuzz(func(t *testing.T, content []byte) {
		head, err := headOfText(content)
		if err != nil {
			return
		}
		// What is whole can be gone on with, where it ends.
		l, err := resume(Config{Path: "fuzz", Now: now}, bytes.NewReader(content), &faulty{content: content}, int64(len(content)))
		if err != nil || l.Head() != head {
			t.Fatalf("%q ends with %+v: %v", content, head, err)
		}
	})
}
