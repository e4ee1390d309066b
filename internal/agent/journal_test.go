package agent

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/run/runtest"
)

// written is a cache with the worlds that each step of it led to.
type written struct {
	*journal
	t      testing.TB
	w      *world
	worlds []*world // after the cache, and after each record
	now    time.Time
}

// newWritten writes the cache of a first world.
func newWritten(t testing.TB, kek *keys.KEK) *written {
	t.Helper()
	first, err := newWorld(newServer(t).state)
	if err != nil {
		t.Fatal(err)
	}
	c := &written{t: t, w: first, now: time.Unix(1_800_000_000, 0)}
	c.journal = &journal{files: files{dir: t.TempDir(), kek: kek}, now: func() time.Time { return c.now }}
	c.whole()
	return c
}

// whole writes the cache as a whole.
func (c *written) whole() {
	c.t.Helper()
	name, err := c.files.writeState(c.w, &beside{Interest: []string{fmt.Sprint(c.w.revision)}})
	if err == nil {
		err = c.end(name)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.worlds = []*world{c.w}
}

// delta is a change of one rule, and has happened.
func (c *written) delta(rule string) []byte {
	c.t.Helper()
	d := &pb.Delta{Revision: c.w.revision + 1, Put: []*pb.Object{ruleObject(rule, "web", "orders", fmt.Sprintf("GET /v%d", c.w.revision))}}
	raw, err := proto.Marshal(d)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.w, err = c.w.apply(d); err != nil {
		c.t.Fatal(err)
	}
	return raw
}

// change has a rule change, and writes that down.
func (c *written) change(rule string) error {
	c.t.Helper()
	err := c.add(record{Deltas: [][]byte{c.delta(rule)}, Beside: &beside{Interest: []string{fmt.Sprint(c.w.revision)}}})
	if err == nil {
		c.worlds = append(c.worlds, c.w)
	}
	return err
}

func (c *written) changes(n int) {
	c.t.Helper()
	for i := range n {
		if err := c.change(fmt.Sprintf("r-%d", i)); err != nil {
			c.t.Fatal(err)
		}
	}
}

// read is what a start finds.
func (c *written) read() (*world, error) {
	c.t.Helper()
	w, kept, torn, err := c.files.readState()
	if err != nil || w == nil {
		c.t.Fatalf("got %v, %v, want a world", w, err)
	}
	if len(kept.Interest) != 1 || kept.Interest[0] != fmt.Sprint(w.revision) {
		c.t.Errorf("at revision %d: beside it is %v", w.revision, kept.Interest)
	}
	return w, torn
}

func sameWorld(a, b *world) bool {
	sorted := func(w *world) *pb.State {
		s := w.state()
		slices.SortFunc(s.Objects, func(a, b *pb.Object) int {
			return cmp.Or(cmp.Compare(keyOf(a).kind, keyOf(b).kind), cmp.Compare(keyOf(a).name, keyOf(b).name))
		})
		return s
	}
	return proto.Equal(sorted(a), sorted(b))
}

func bothWays(t *testing.T, test func(t *testing.T, kek *keys.KEK)) {
	t.Run("plain", func(t *testing.T) { test(t, nil) })
	t.Run("sealed", func(t *testing.T) { test(t, testKEK(t)) })
}

// tried says whether a test of every byte tries this one. With the race detector it
// tries those around the ends of records and a seventh of the others, without it all.
func tried(at int, ends ...int) bool {
	return !runtest.Raced || at%7 == 0 || slices.ContainsFunc(ends, func(end int) bool { return max(at-end, end-at) <= 12 })
}

// Wherever a crash cuts the journal off, a start goes on from the last record that is
// whole, and says so.
func TestJournalCutOffAnywhereIsFollowedAsFarAsItIsWhole(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, kek *keys.KEK) {
		c := newWritten(t, kek)
		var ends []int
		for range 4 {
			c.changes(1)
			ends = append(ends, int(c.size))
		}
		data, err := os.ReadFile(c.files.journal())
		if err != nil || len(data) != ends[3] {
			t.Fatalf("%d bytes, %v, want %d", len(data), err, ends[3])
		}
		for length := range len(data) + 1 {
			if !tried(length, append([]int{0}, ends...)...) {
				continue
			}
			if err := os.WriteFile(c.files.journal(), data[:length], 0o600); err != nil {
				t.Fatal(err)
			}
			whole := slices.IndexFunc(append(slices.Clone(ends), len(data)+1), func(end int) bool { return end > length })
			w, torn := c.read()
			if !sameWorld(w, c.worlds[whole]) {
				t.Fatalf("of %d bytes: got revision %d, want %d", length, w.revision, c.worlds[whole].revision)
			}
			if clean := length == 0 || slices.Contains(ends, length); clean != (torn == nil) {
				t.Fatalf("of %d bytes: told %v", length, torn)
			}
		}
	})
}

// No byte of a journal can be another one: what follows is not followed.
func TestChangedJournalIsNotFollowed(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, kek *keys.KEK) {
		c := newWritten(t, kek)
		c.changes(1)
		first := c.size
		c.changes(1)
		data, err := os.ReadFile(c.files.journal())
		if err != nil {
			t.Fatal(err)
		}
		for i := range data {
			if !tried(i, 0, int(first), len(data)) {
				continue
			}
			changed := slices.Clone(data)
			changed[i] ^= 0x10
			if err := os.WriteFile(c.files.journal(), changed, 0o600); err != nil {
				t.Fatal(err)
			}
			want := c.worlds[0]
			if int64(i) >= first {
				want = c.worlds[1]
			}
			if w, torn := c.read(); !sameWorld(w, want) || torn == nil {
				t.Fatalf("byte %d: got revision %d, told %v, want %d", i, w.revision, torn, want.revision)
			}
		}
	})
}

// A crash at each step of writing the cache as a whole leaves the old one with its
// journal, or the new one, and never the one with what belongs to the other.
func TestCrashWhileTheCacheIsWrittenAsAWhole(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, kek *keys.KEK) {
		c := newWritten(t, kek)
		c.changes(3)
		last := c.w
		keep := func(path string) []byte {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		put := func(path string, data []byte) {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want := func(step string, world *world, told bool) {
			t.Helper()
			if w, torn := c.read(); !sameWorld(w, world) || (torn != nil) != told {
				t.Errorf("%s: got revision %d and %v, want %d", step, w.revision, torn, world.revision)
			}
		}
		oldCache, oldJournal := keep(c.files.state()), keep(c.files.journal())
		put(filepath.Join(c.files.dir, ".tmp-1"), []byte("half of it"))
		want("the new one is half written", last, false)
		c.files.sweep()
		if left, _ := filepath.Glob(filepath.Join(c.files.dir, ".tmp-*")); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}

		c.delta("r-9") // which the old journal does not have
		c.whole()
		newCache := keep(c.files.state())
		put(c.files.journal(), oldJournal)
		want("the old journal is not removed yet", c.w, true)
		if err := os.Remove(c.files.journal()); err != nil {
			t.Fatal(err)
		}
		want("all is done", c.w, false)
		former := c.worlds[0]
		c.changes(1)
		put(c.files.state(), oldCache)
		w, _, torn, err := c.files.readState()
		if err != nil || torn == nil || w.revision != former.revision-4 {
			t.Errorf("the new journal after the old cache: got %v, %v and %v, want the old cache and to be told", w, torn, err)
		}
		put(c.files.state(), newCache)
		want("the next change", c.w, false)
	})
}

// Records cannot change places, come again, be left out or come from elsewhere, though
// each of them was written here. Attack: an older policy put together of true parts.
func TestRecordsAreBoundToTheirPlace(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, kek *keys.KEK) {
		c := newWritten(t, kek)
		var parts [][]byte
		for range 3 {
			from := c.size
			c.changes(1)
			data, err := os.ReadFile(c.files.journal())
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, data[from:])
		}
		other := newWritten(t, kek)
		other.changes(1)
		foreign, err := os.ReadFile(other.files.journal())
		if err != nil {
			t.Fatal(err)
		}
		for what, test := range map[string]struct {
			parts  [][]byte
			follow int
		}{
			"in order":         {[][]byte{parts[0], parts[1], parts[2]}, 3},
			"out of order":     {[][]byte{parts[1], parts[0], parts[2]}, 0},
			"one left out":     {[][]byte{parts[0], parts[2]}, 1},
			"one twice":        {[][]byte{parts[0], parts[0], parts[1]}, 1},
			"of another cache": {[][]byte{foreign, parts[1]}, 0},
			"nothing":          {[][]byte{make([]byte, 64)}, 0},
		} {
			if err := os.WriteFile(c.files.journal(), slices.Concat(test.parts...), 0o600); err != nil {
				t.Fatal(err)
			}
			if w, torn := c.read(); !sameWorld(w, c.worlds[test.follow]) || (torn == nil) != (test.follow == 3) {
				t.Errorf("%s: got revision %d, told %v, want %d", what, w.revision, torn, c.worlds[test.follow].revision)
			}
		}
	})
}

// Under a KEK nothing of a journal is readable, and nothing plain is followed.
func TestJournalIsSealed(t *testing.T) {
	t.Parallel()
	c := newWritten(t, testKEK(t))
	c.changes(2)
	data, err := os.ReadFile(c.files.journal())
	if err != nil || strings.Contains(string(data), "delta") || strings.Contains(string(data), "orders") {
		t.Errorf("%v: readable: %q", err, data)
	}
	info, err := os.Stat(c.files.journal())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	plain, err := files{dir: c.files.dir}.frame(record{Form: journalForm, Of: c.of, Beside: &beside{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.files.journal(), plain, 0o600); err != nil {
		t.Fatal(err)
	}
	if w, torn := c.read(); !sameWorld(w, c.worlds[0]) || torn == nil {
		t.Errorf("a plain record was followed: revision %d, %v", w.revision, torn)
	}
	if err := os.WriteFile(c.files.journal(), data, 0o600); err != nil {
		t.Fatal(err)
	}
	c.files.kek = testKEK(t)
	if records, err := c.files.readJournal(c.of); len(records) > 0 || err == nil {
		t.Errorf("opened with another key: %d records, %v", len(records), err)
	}
}
