package policy

import (
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/kith-id/kith/internal/pb"
)

const canary = "canary-5f0c" // a secret that must not be in the log

// everything is what an agent asks for that wants to know all.
func everything() *pb.DecisionLog {
	return &pb.DecisionLog{Allows: 1, Headers: []string{"*"}, Query: []string{"*"}, Claims: []string{"*"}, MaskHeaders: []string{"X-Person"}, MaskQuery: []string{"email"}, MaskClaims: []string{"phone"}}
}

func TestASecretIsNeverRecorded(t *testing.T) {
	jwt := "eyJhbGciOiJFUzI1NiJ9.e30." + canary
	headers := http.Header{
		"Authorization": {"Bearer " + canary}, "Proxy-Authorization": {"Basic " + canary}, "Cookie": {"sid=" + canary}, "X-Api-Key": {canary},
		"X-Auth-Token": {canary}, "X-Forwarded-Client-Cert": {canary}, "X-Odd": {jwt}, "X-Other": {"bearer " + canary}, "X-Person": {canary},
		"X-Csrf": {canary}, "X-Amz-Security-Token": {canary}, "Traceparent": {"00-1-2-01"},
	}
	query := "access_token=" + canary + "&API%5fKEY=" + canary + "&sig=" + canary + "&code=" + canary + "&email=" + canary + "&note=" + jwt + "&bad=%zz" + canary + "&page=2"
	claims := map[string]any{"sub": "alice", "session_state": canary, "phone": canary, "nested": jwt}
	m := &pb.Decision{}
	RecordingFromPB(everything()).Note(m, headers, headers, query, claims)
	if text := prototext.Format(m); strings.Contains(text, canary) {
		t.Errorf("the secret is there:\n%s", text)
	}
	if m.Headers["traceparent"] != "00-1-2-01" || m.Query["page"] != "2" || m.Claims["sub"] != "alice" {
		t.Errorf("what is no secret: got %v, %v, %v", m.Headers, m.Query, m.Claims)
	}
	if m.Headers["authorization"] != Masked || m.Query["api_key"] != Masked || m.Claims["phone"] != Masked {
		t.Errorf("masked: got %v, %v, %v", m.Headers, m.Query, m.Claims)
	}
}

func TestOnlyNamedValuesAreRecorded(t *testing.T) {
	m := &pb.Decision{}
	r := RecordingFromPB(&pb.DecisionLog{Headers: []string{"X-Request-Id"}, Query: []string{"page"}})
	r.Note(m, http.Header{"X-Request-Id": {"r1", "r2"}, "X-Other": {"no"}}, nil, "page=1&other=2", map[string]any{"sub": "alice"})
	if len(m.Headers) != 1 || m.Headers["x-request-id"] != "r1, r2" || len(m.Query) != 1 || m.Query["page"] != "1" || m.Claims != nil {
		t.Errorf("got %v, %v, %v", m.Headers, m.Query, m.Claims)
	}
	none := &pb.Decision{}
	(*Recording)(nil).Note(none, http.Header{"A": {"b"}}, nil, "a=b", nil)
	if none.Headers != nil || none.Query != nil {
		t.Errorf("without a log: got %v", none)
	}
}

func TestSharesOfAllows(t *testing.T) {
	for _, c := range []struct {
		share  float64
		random uint32
		want   bool
	}{{0, 0, false}, {1, 1<<32 - 1, true}, {0.5, 1<<31 - 1, true}, {0.5, 1 << 31, false}, {7, 1<<32 - 1, true}, {-1, 0, false}} {
		if got := RecordingFromPB(&pb.DecisionLog{Allows: c.share}).Picks(c.random); got != c.want {
			t.Errorf("share %v at %d: got %v, want %v", c.share, c.random, got, c.want)
		}
	}
	if RecordingFromPB(nil).Picks(0) {
		t.Error("without a log an allow was picked")
	}
}

func FuzzRecordingIsBounded(f *testing.F) {
	f.Add("X-A", "value", "a=b&c=%41", "sub")
	f.Add("Authorization", "Bearer x", "access_token=x", "jti")
	f.Fuzz(func(t *testing.T, name, value, query, claim string) {
		m := &pb.Decision{}
		headers := http.Header{name: {value}}
		RecordingFromPB(everything()).Note(m, headers, headers, query, map[string]any{claim: value})
		for _, values := range []map[string]string{m.Headers, m.Query, m.Claims} {
			if len(values) > maxKept {
				t.Fatalf("%d values", len(values))
			}
			for name, value := range values {
				if len(name) > maxKeptName*3 || len(value) > maxKeptValue*3 {
					t.Fatalf("%d bytes of name, %d of value", len(name), len(value))
				}
			}
		}
		if _, err := prototext.Marshal(m); err != nil {
			t.Fatal(err)
		}
	})
}
