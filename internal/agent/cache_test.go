package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

// A journal ends by size, number and age, where nobody can write to it, and where it
// has no cache to go on from. What is larger than any that was written is not read.
func TestJournalIsBounded(t *testing.T) {
	t.Parallel()
	c := newWritten(t, nil)
	want := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: it went on", what)
		}
		c.whole()
		if _, err := os.Stat(c.files.journal()); !os.IsNotExist(err) {
			t.Errorf("%s: a journal beside a cache that has all of it: %v", what, err)
		}
	}
	c.changes(1)
	c.now = c.now.Add(journalAge)
	want("age", c.change("r"))
	c.changes(1)
	c.now = c.now.Add(-time.Minute)
	want("a clock that went back", c.change("r"))
	c.changes(1)
	c.records = maxRecords
	want("number", c.change("r"))
	c.changes(1)
	want("size", c.add(record{Deltas: [][]byte{make([]byte, maxJournal)}}))
	c.changes(1)
	if err := c.file.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.change("r"); err == nil {
		t.Error("a file that cannot be written to: it went on")
	}
	c.file = nil
	c.whole()
	if err := os.Mkdir(c.files.journal(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.files.journal(), "in the way"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.change("r"); err == nil {
		t.Error("a name that cannot be written to: it went on")
	}
	if err := os.RemoveAll(c.files.journal()); err != nil {
		t.Fatal(err)
	}
	if err := (&journal{files: c.files, now: c.now.Local}).add(record{}); err == nil {
		t.Error("without a cache: it went on")
	}
	if err := os.WriteFile(c.files.journal(), make([]byte, maxJournal+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if w, torn := c.read(); !sameWorld(w, c.worlds[0]) || torn == nil {
		t.Errorf("a file that is too large: revision %d, %v", w.revision, torn)
	}
}

// An agent that is killed goes on from the cache and its journal while its server is
// away; one that is stopped leaves a cache that has all of it.
func TestKilledAgentGoesOnFromItsJournal(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.cfg.KEK = testKEK(t)
	n.start()
	n.attach(&pb.Open{As: "orders", Serves: true}).slice()
	live := n.agent.files
	written := func(revision uint64) func() bool {
		return func() bool {
			w, kept, torn, err := live.readState()
			return err == nil && torn == nil && w != nil && w.revision == revision && len(kept.Interest) == 1
		}
	}
	eventually(t, "the cache is written", written(1))
	r := s.change([]*pb.Object{ruleObject("web-writes", "web", "orders", "POST /v1/orders")})
	eventually(t, "the change is written", written(r))
	if _, err := os.Stat(live.journal()); err != nil {
		t.Fatalf("the change is not in a journal: %v", err)
	}
	killed := filepath.Join(t.TempDir(), "state")
	if err := os.CopyFS(killed, os.DirFS(n.cfg.StateDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(killed, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(live.journal()); !os.IsNotExist(err) || !written(r)() {
		t.Errorf("a stopped agent leaves a journal, or no cache of revision %d: %v", r, err)
	}
	s.down()
	n.cfg.StateDir, n.cfg.Join = killed, nil
	n.start()
	if got := n.attach(&pb.Open{As: "orders", Serves: true}).slice(); len(got.GetRules()) != 2 {
		t.Errorf("after it was killed: got %v, want both rules", got)
	}
}

// Whatever changes and whenever it is written, and however: a start finds the world
// of the last write.
func TestCacheAndJournalLeadToTheWorld(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	rapid.Check(t, func(rt *rapid.T) {
		first, err := newWorld(server.state)
		if err != nil {
			rt.Fatal(err)
		}
		c := &written{t: t, w: first, now: time.Unix(1_800_000_000, 0)}
		c.journal = &journal{files: files{dir: t.TempDir()}, now: func() time.Time { return c.now }}
		c.whole()
		saved := c.w
		var waiting [][]byte
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			switch name := fmt.Sprintf("r-%d", rapid.IntRange(0, 4).Draw(rt, "rule")); rapid.IntRange(0, 5).Draw(rt, "step") {
			case 0:
				d := &pb.Delta{Revision: c.w.revision + 1, Delete: []*pb.Key{{Kind: string(registry.KindRule), Name: name}}}
				raw, err := proto.Marshal(d)
				if err == nil {
					c.w, err = c.w.apply(d)
				}
				if err != nil {
					rt.Fatal(err)
				}
				waiting = append(waiting, raw)
			case 1, 2:
				waiting = append(waiting, c.delta(name))
			case 3: // what is waiting is in it already, and written again
				c.whole()
				saved = c.w
			default:
				if err := c.add(record{Deltas: waiting, Beside: &beside{Interest: []string{fmt.Sprint(c.w.revision)}}}); err != nil {
					rt.Fatal(err)
				}
				saved, waiting = c.w, nil
			}
			if w, torn := c.read(); !sameWorld(w, saved) || torn != nil {
				rt.Fatalf("got revision %d, %v, want %d", w.revision, torn, saved.revision)
			}
		}
		if err := c.close(); err != nil {
			rt.Fatal(err)
		}
	})
}
