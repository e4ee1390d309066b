package audit

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A line is what encoding/json would write, byte for byte.
func TestLinesAreWrittenAsJSONWouldWriteThem(t *testing.T) {
	text := rapid.OneOf(rapid.StringMatching(`[ -~]{0,20}`), rapid.String(), rapid.Just(""), rapid.Just("spiffe://acme.example/a"))
	rapid.Check(t, func(r *rapid.T) {
		l := line{
			Seq: rapid.Uint64().Draw(r, "seq"), Kind: Kind(text.Draw(r, "kind")), Phase: Phase(text.Draw(r, "phase")),
			Actor: text.Draw(r, "actor"), Object: text.Draw(r, "object"), Outcome: text.Draw(r, "outcome"), Prev: text.Draw(r, "prev"),
			Revision: rapid.Uint64Range(0, 3).Draw(r, "revision"),
			Facts:    rapid.MapOfN(text, text, 0, 5).Draw(r, "facts"),
			Time:     time.Unix(rapid.Int64Range(0, 300_000_000_000).Draw(r, "seconds"), rapid.Int64Range(0, 1e9-1).Draw(r, "nanoseconds")).UTC(),
		}
		if rapid.Bool().Draw(r, "elsewhere") {
			l.Time = l.Time.In(time.FixedZone("", 3600))
		}
		want, wantErr := json.Marshal(l)
		const before = "the line before\n"
		got, err := l.appendTo([]byte(before))
		if string(got) != before+string(want) || (err == nil) != (wantErr == nil) {
			r.Fatalf("got %s, %v\nwant %s, %v", got, err, want, wantErr)
		}
	})
}
