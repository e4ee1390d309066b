package registry

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestAdminRecordsRoundTrip(t *testing.T) {
	now := time.Unix(1_800_000_000, 0).UTC()
	for _, role := range []Role{RoleViewer, RoleOperator, RoleAdmin} {
		admin := Admin{Name: "alice", Role: role, KeyHash: HashOf([]byte("k")), Joined: now, By: "uid:0"}
		if role == RoleOperator {
			admin.Teams = []string{"shop", "stock"}
		}
		value, err := admin.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseAdmin(value); err != nil || !reflect.DeepEqual(got, admin) {
			t.Errorf("got %+v, %v, want %+v", got, err, admin)
		}
		token := AdminToken{Hash: HashOf([]byte("s")), Name: "alice", Role: role, By: "uid:0", Created: now, Expires: now.Add(MaxTokenTTL)}
		if value, err = token.Marshal(); err != nil {
			t.Fatal(err)
		}
		if got, err := ParseAdminToken(value); err != nil || !reflect.DeepEqual(got, token) {
			t.Errorf("got %+v, %v, want %+v", got, err, token)
		}
		if token.Expired(now.Add(MaxTokenTTL-1)) || !token.Expired(token.Expires) || !(AdminToken{}).Expired(now) {
			t.Error("a token is good until it expires, and the zero token never is")
		}
	}
}

func TestAdminRecordsFailClosed(t *testing.T) {
	key := strings.Repeat("ab", 32)
	for name, text := range map[string]string{
		"no role":       `{"name":"alice","key":"` + key + `"}`,
		"empty role":    `{"name":"alice","role":"","key":"` + key + `"}`,
		"unknown role":  `{"name":"alice","role":"root","key":"` + key + `"}`,
		"role number":   `{"name":"alice","role":3,"key":"` + key + `"}`,
		"no key":        `{"name":"alice","role":"admin"}`,
		"no name":       `{"role":"admin","key":"` + key + `"}`,
		"viewer's team": `{"name":"alice","role":"viewer","teams":["shop"],"key":"` + key + `"}`,
		"admin's team":  `{"name":"alice","role":"admin","teams":["shop"],"key":"` + key + `"}`,
		"team twice":    `{"name":"alice","role":"operator","teams":["shop","shop"],"key":"` + key + `"}`,
		"team no name":  `{"name":"alice","role":"operator","teams":["../x"],"key":"` + key + `"}`,
		"path in name":  `{"name":"../x","role":"admin","key":"` + key + `"}`,
		"unknown field": `{"name":"alice","role":"admin","key":"` + key + `","sudo":true}`,
	} {
		if got, err := ParseAdmin([]byte(text)); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
	long := AdminToken{Hash: HashOf(nil), Name: "a", Role: RoleAdmin, Created: time.Unix(0, 0), Expires: time.Unix(0, 0).Add(MaxTokenTTL + 1)}
	if _, err := long.Marshal(); err == nil {
		t.Error("a token that lives too long was written")
	}
	if RoleNone.String() != "none" || Role(9).String() != "none" {
		t.Error("what is no role has a role's name")
	}
}

func FuzzParseAdminRecords(f *testing.F) {
	f.Add([]byte(`{"name":"alice","role":"admin","key":"` + strings.Repeat("ab", 32) + `"}`))
	f.Add([]byte(`{"hash":"` + strings.Repeat("ab", 32) + `","name":"alice","role":"viewer","created":"2026-01-01T00:00:00Z","expires":"2026-01-01T00:10:00Z"}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		if a, err := ParseAdmin(value); err == nil {
			if again, err := a.Marshal(); err != nil {
				t.Errorf("read %+v, and cannot write it: %v %s", a, err, again)
			}
		}
		if token, err := ParseAdminToken(value); err == nil && !token.Expired(token.Created.Add(MaxTokenTTL)) {
			t.Errorf("a token that lives too long was read: %+v", token)
		}
	})
}
