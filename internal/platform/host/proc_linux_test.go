package host

import (
	"bytes"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func stat(comm, ppid, start string) []byte {
	return []byte("4242 (" + comm + ") S " + ppid + " 4242 4242 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 " + start + " 100 200")
}

func TestStatIsReadFromTheLastParenthesis(t *testing.T) {
	for _, comm := range []string{"orders", "a b", "x) R 1 1", "(", ") S 7 (", ""} {
		got, err := parseStat(stat(comm, "17", "98765"))
		want := procStat{parent: 17, started: 98765}
		if err != nil || got != want {
			t.Errorf("command %q: got %+v, %v, want %+v", comm, got, err, want)
		}
	}
}

func TestStatRefusesWhatIsCutShort(t *testing.T) {
	whole := string(stat("orders", "17", "98765"))
	for _, text := range []string{"", "4242 (orders", whole[:strings.Index(whole, " 98765")], string(stat("a", "x", "1")), string(stat("a", "1", "-1"))} {
		if got, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}

func TestOwnerIsTheEffectiveUser(t *testing.T) {
	text := "Name:\torders\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\nGroups:\t4 20 \n"
	got, err := parseOwner(text)
	want := owner{uid: 1001, gid: 6, groups: []uint32{4, 20}}
	if err != nil || !cmp.Equal(got, want, cmp.AllowUnexported(owner{})) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "Uid:\t1 2 3\nGid:\t1 2 3 4\nGroups:\n", "Uid:\t1 x 3 4\nGid:\t1 2 3 4\nGroups:\n", "Uid:\t1 2 3 4\nGid:\t1 2 3 4\n", "Uid:\t1 2 3 4\nUid:\t1 2 3 4\nGroups:\n"} {
		if got, err := parseOwner(bad); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, got)
		}
	}
}

func FuzzProcFiles(f *testing.F) {
	f.Add(stat("a) b", "1", "2"))
	f.Add([]byte("Uid:\t1 2 3 4\nGid:\t1 2 3 4\nGroups:\t1\n"))
	f.Add([]byte("Uid:\t1 2 3 4\nUid:\t0 0 0 0\nGroups:\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, err := parseStat(text); err == nil && !bytes.Contains(text, strconv.AppendUint(nil, got.started, 10)) {
			t.Errorf("%q: started at %d", text, got.started)
		}
		got, err := parseOwner(string(text))
		if err != nil {
			return
		}
		lines := "\n" + string(text)
		for key, id := range map[string]uint32{"\nUid:": got.uid, "\nGid:": got.gid} {
			_, after, _ := strings.Cut(lines, key)
			fields := strings.Fields(strings.SplitN(after, "\n", 2)[0])
			if said, err := strconv.ParseUint(fields[1], 10, 32); err != nil || uint32(said) != id || strings.Count(lines, key) != 1 {
				t.Errorf("%q: got %d for %q", text, id, key)
			}
		}
	})
}
