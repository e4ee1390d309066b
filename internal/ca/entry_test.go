package ca

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// What is written of an entry is read again, whatever its texts hold.
func TestEntriesAreReadAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		want := Entry{Revision: rapid.Uint64().Draw(r, "revision")}
		for _, text := range want.texts() {
			*text = rapid.StringN(0, 40, 200).Draw(r, "text")
		}
		for _, at := range []*time.Time{&want.Time, &want.NotAfter} {
			if rapid.Bool().Draw(r, "time") {
				*at = time.Unix(rapid.Int64Range(0, 1<<40).Draw(r, "seconds"), rapid.Int64Range(0, 1e9-1).Draw(r, "nanoseconds")).UTC()
			}
		}
		payload, err := want.encode()
		if err != nil {
			r.Fatal(err)
		}
		got, err := decodeEntry(payload)
		if err != nil || !cmp.Equal(got, want) {
			r.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
		for n := range payload {
			if _, err := decodeEntry(payload[:n]); err == nil {
				r.Fatalf("the first %d of %d bytes are an entry", n, len(payload))
			}
		}
		if _, err := decodeEntry(append(payload, 0)); err == nil {
			r.Fatal("an entry and one byte more are an entry")
		}
	})
}

func FuzzDecodeEntry(f *testing.F) {
	for _, e := range []Entry{{}, numbered(3), {Kind: VoidEntry, Time: epoch, Reason: "lint", Revision: 1 << 63}} {
		payload, err := e.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, err := decodeEntry(payload)
		if err != nil {
			return
		}
		held := 0
		for _, text := range e.texts() {
			held += len(*text)
		}
		if held > len(payload) {
			t.Errorf("%d bytes of text out of %d", held, len(payload))
		}
	})
}
