package ca

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/run/runtest"
)

var epoch = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

const smallJournal = ringStart + minCapacity

// blank is the content of a new journal.
func blank(t testing.TB) []byte { return blankOf(t, smallJournal) }

func blankOf(t testing.TB, size int64) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	if err := createJournal(path, size); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func onDisk(t testing.TB, d *disk) *journal {
	t.Helper()
	j, err := newJournal("test", d, int64(len(d.written)))
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// numbered is an entry that can be told from all others.
func numbered(n int) Entry {
	return Entry{Kind: LeafEntry, Time: epoch, Serial: fmt.Sprint(n), ID: "spiffe://acme.example/" + strings.Repeat("a", n*37%1500)}
}

func shipTo(out *[]string) func(context.Context, []Entry) error {
	return func(_ context.Context, entries []Entry) error {
		for _, e := range entries {
			*out = append(*out, e.Serial)
		}
		return nil
	}
}

func TestJournalShipsInOrderAndReusesSpace(t *testing.T) {
	j := onDisk(t, newDisk(blank(t)))
	var got, want []string
	for n := range 1000 { // many laps of 64 KiB
		if err := j.add(t.Context(), epoch, numbered(n)); err != nil {
			t.Fatalf("entry %d: %v", n, err)
		}
		want = append(want, fmt.Sprint(n))
		if n%20 == 0 {
			if err := j.drain(t.Context(), shipTo(&got)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := j.drain(t.Context(), shipTo(&got)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("shipped (-want +got):\n%s", diff)
	}
	if j.ring.head < 3*j.ring.capacity || j.share() != 0 {
		t.Errorf("head %d, share %v: the ring was not gone round", j.ring.head, j.share())
	}
}

// script adds, drains and goes round the ring; it stops at the first error. It
// tells what was acknowledged and what was shipped.
func script(j *journal, from int) (acked, tried, shipped []string, err error) {
	for n := from; n < from+60; n++ {
		count := 1 + n%3
		entries, names := make([]Entry, count), make([]string, count)
		for i := range entries {
			entries[i] = numbered(n*10 + i)
			names[i] = entries[i].Serial
		}
		tried = append(tried, names...)
		at := epoch.Add(time.Duration(n) * time.Second)
		err := j.add(context.Background(), at, entries...)
		if err != nil && strings.Contains(err.Error(), "is full") {
			// The next write goes where the oldest entries stood.
			if err = j.drain(context.Background(), shipTo(&shipped)); err == nil {
				err = j.add(context.Background(), at, entries...)
			}
		}
		if err != nil {
			return acked, tried, shipped, err
		}
		acked = append(acked, names...)
		if n == 8 {
			if err := j.drain(context.Background(), shipTo(&shipped)); err != nil {
				return acked, tried, shipped, err
			}
		}
	}
	return acked, tried, shipped, nil
}

// The power goes at each write and each sync of the script in turn. What was
// acknowledged is shipped or still in the journal, in order; nothing is there
// that nobody wrote; and the journal goes on.
func TestJournalAtEveryCrashPoint(t *testing.T) {
	content := blank(t)
	whole := newDisk(content)
	if _, _, _, err := script(onDisk(t, whole), 0); err != nil {
		t.Fatal(err)
	}
	seeds := uint64(3)
	if runtest.Raced {
		seeds = 1
	}
	for at := range whole.ops + 1 {
		for seed := range seeds {
			random := rand.New(rand.NewPCG(uint64(at), seed))
			d := newDisk(content)
			before := onDisk(t, d)
			d.until = at
			acked, tried, shipped, _ := script(before, 0)
			crashed := newDisk(d.afterCrash(random))
			j := onDisk(t, crashed)
			after := append([]string{}, shipped...)
			if err := j.drain(t.Context(), shipTo(&after)); err != nil {
				t.Fatalf("crash at %d: %v", at, err)
			}
			checkHistory(t, at, acked, tried, shipped, after)
			if last := lastTime(len(acked)); len(acked) > 0 && j.latest.Load() < last.UnixNano() {
				t.Errorf("crash at %d: the latest time went back", at)
			}
			if again, _, _, err := script(j, 100); err != nil || len(again) == 0 {
				t.Fatalf("crash at %d: the journal does not go on: %v", at, err)
			}
		}
	}
}

// lastTime is the time of the group that brought the number of acknowledged
// entries to n.
func lastTime(n int) time.Time {
	group := -1
	for sum := 0; sum < n; {
		group++
		sum += 1 + group%3
	}
	return epoch.Add(time.Duration(group) * time.Second)
}

// checkHistory wants after to be a prefix of tried that holds all of acked,
// but that some of what was shipped before the crash may be there twice.
func checkHistory(t *testing.T, at int, acked, tried, shipped, after []string) {
	t.Helper()
	recovered := after[len(shipped):]
	for back := 0; back <= len(shipped); back++ {
		all := append(append([]string{}, shipped[:len(shipped)-back]...), recovered...)
		if len(all) >= len(acked) && len(all) <= len(tried) && cmp.Equal(all, tried[:len(all)]) {
			return
		}
	}
	t.Fatalf("crash at %d: acknowledged %d, shipped %d, recovered %v", at, len(acked), len(shipped), recovered)
}

// Entries of one call stand or fall together only in the answer; a crash may
// leave the first of them, which counts as issued.
func TestJournalRefusesOnlyWhenExhausted(t *testing.T) {
	j := onDisk(t, newDisk(blank(t)))
	n := 0
	var err error
	for ; err == nil; n++ {
		err = j.add(t.Context(), epoch, numbered(n))
	}
	if n < 50 || !strings.Contains(err.Error(), "is full") || fault.HintOf(err) == "" {
		t.Fatalf("entry %d: %v", n, err)
	}
	if share := j.share(); share < 0.97 {
		t.Errorf("refused at %v", share)
	}
	refuse := func(context.Context, []Entry) error { return errors.New("audit log is full") }
	if err := j.drain(t.Context(), refuse); err == nil || !strings.Contains(err.Error(), "audit log is full") {
		t.Errorf("drain: %v", err)
	}
	var got []string
	if err := j.drain(t.Context(), shipTo(&got)); err != nil || len(got) != n-1 {
		t.Errorf("%d entries shipped, want %d: %v", len(got), n-1, err)
	}
	if err := j.add(t.Context(), epoch, numbered(n)); err != nil {
		t.Errorf("after the drain: %v", err)
	}
}

// Records of the lap before stand in the file, whole, where the next ones
// will; they are not read again.
func TestOldLapIsNotReadAgain(t *testing.T) {
	d := newDisk(blank(t))
	j := onDisk(t, d)
	sized := func(n int) Entry { // a record of 512 bytes, of which a lap holds 128
		e := Entry{Kind: LeafEntry, Time: epoch, Serial: fmt.Sprintf("%03d", n), ID: strings.Repeat("a", 200)}
		e.ID += strings.Repeat("a", 512-recordHeader-len(mustEncode(t, e)))
		return e
	}
	var got []string
	for n := range 128 {
		if err := j.add(t.Context(), epoch, sized(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.drain(t.Context(), shipTo(&got)); err != nil || j.ring.head != j.ring.capacity {
		t.Fatalf("head %d, %v", j.ring.head, err)
	}
	got = nil
	if err := j.add(t.Context(), epoch, sized(500)); err != nil {
		t.Fatal(err)
	}
	if err := onDisk(t, newDisk(d.durable)).drain(t.Context(), shipTo(&got)); err != nil || !cmp.Equal(got, []string{"500"}) {
		t.Errorf("after a restart: %v, %v", got, err)
	}
}

func TestJournalStopsAfterAFailedSync(t *testing.T) {
	d := newDisk(blank(t))
	j := onDisk(t, d)
	d.syncErr = errors.New("input/output error")
	if err := j.add(t.Context(), epoch, numbered(1)); err == nil {
		t.Fatal("an entry that was not synced was acknowledged")
	}
	d.syncErr = nil // the page is clean now, and its content anybody's guess
	if err := j.add(t.Context(), epoch, numbered(2)); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("after a failed sync: %v", err)
	}
}

// A flipped bit never yields another entry: it is found, or it is in a place
// that holds none.
func TestJournalFindsDamage(t *testing.T) {
	d := newDisk(blank(t))
	j := onDisk(t, d)
	var want []string
	for n := range 30 {
		if err := j.add(t.Context(), epoch, numbered(n)); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprint(n))
	}
	random := rand.New(rand.NewPCG(1, 2))
	lastRecord := int(ringStart + j.ring.head - recordSize(len(mustEncode(t, numbered(29)))))
	for range 400 {
		content := append([]byte{}, d.durable...)
		place := ringStart + random.IntN(int(j.ring.head))
		content[place] ^= 1 << random.IntN(8)
		damaged, err := newJournal("test", newDisk(content), int64(len(content)))
		if err != nil {
			continue // found at once
		}
		var got []string
		if err := damaged.drain(t.Context(), shipTo(&got)); err != nil {
			continue
		}
		if cmp.Equal(got, want) {
			continue // padding
		}
		// The last record may be one a crash has torn.
		if place < lastRecord || !cmp.Equal(got, want[:29]) {
			t.Errorf("bit flipped at %d: entries %v", place, got)
		}
	}
}

// Where the first of two entries is gone, the later one tells, wherever it stands:
// also where a search that reads chunks meets its end.
func TestJournalFindsDamageBeforeARecordAnywhere(t *testing.T) {
	const chunk = 64 << 10
	payload := mustEncode(t, numbered(1))
	for _, pos := range []uint64{48, chunk - 16, chunk - 8, chunk, chunk + 8, 2*chunk - 8, 3 * chunk} {
		d := newDisk(blankOf(t, ringStart+4*chunk))
		r := onDisk(t, d).ring
		r.head = pos // as it was when the record was written
		if err := r.writeAt(r.appendRecord(nil, pos, payload, epoch), pos); err != nil {
			t.Fatal(err)
		}
		if _, err := newJournal("test", d, int64(len(d.written))); err == nil || !strings.Contains(err.Error(), "is damaged at position 0") {
			t.Errorf("an entry at %d that follows a lost one: got %v", pos, err)
		}
	}
}

func mustEncode(t *testing.T, e Entry) []byte {
	t.Helper()
	payload, err := e.encode()
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

func TestJournalFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := openJournal(path, smallJournal+5)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.add(t.Context(), epoch, numbered(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(path, smallJournal); !fault.Is(err, fault.Conflict) {
		t.Errorf("a second writer: %v", err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	if err := j.add(t.Context(), epoch, numbered(2)); err == nil {
		t.Error("a closed journal took an entry")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != smallJournal {
		t.Errorf("file is %v, %v", info, err)
	}
	again, err := openJournal(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	var got []string
	if err := again.drain(t.Context(), shipTo(&got)); err != nil || !cmp.Equal(got, []string{"1"}) {
		t.Errorf("after reopening: %v, %v", got, err)
	}
}

func TestJournalRefusesStrangeFiles(t *testing.T) {
	dir := t.TempDir()
	good := blank(t)
	for name, content := range map[string][]byte{
		"empty": {}, "text": []byte(strings.Repeat("hello ", 5000)), "zeros": make([]byte, smallJournal),
		"short": good[:len(good)-8], "long": append(append([]byte{}, good...), 0),
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openJournal(path, smallJournal); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := openJournal(filepath.Join(dir, "tiny"), 100); !fault.Is(err, fault.Invalid) {
		t.Errorf("a journal of 100 bytes: %v", err)
	}
	if err := os.Symlink(filepath.Join(dir, "zeros"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(filepath.Join(dir, "link"), smallJournal); err == nil {
		t.Error("a link was followed")
	}
}

func TestEntryTooLong(t *testing.T) {
	j := onDisk(t, newDisk(blank(t)))
	if err := j.add(t.Context(), epoch, Entry{ID: strings.Repeat("a", maxPayload)}); err == nil {
		t.Error("an entry over the limit was taken")
	}
}
