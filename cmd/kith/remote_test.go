package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/obs"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/testenv"
)

// elsewhere is a user on another host who has joined as an admin.
type elsewhere struct {
	t      *testing.T
	server string
	dir    string
	skew   time.Duration
	notes  string // standard error of the last command
}

func farHost(t *testing.T, d *testenv.Domain, role string) *elsewhere {
	t.Helper()
	e := &elsewhere{t: t, server: d.Server.AdminAddr(), dir: filepath.Join(t.TempDir(), "admin")}
	t.Setenv("KITH_RUN_DIR", t.TempDir())
	added, err := d.Server.AddAdmin(t.Context(), "test", &pb.AddAdminRequest{Name: "alice", Role: role})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.kith("join", "--admin", added.GetJoin()); err != nil {
		t.Fatalf("join: %v", err)
	}
	return e
}

func (e *elsewhere) kith(args ...string) error {
	var out, notes bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &notes, now: func() time.Time { return obs.Now().Add(e.skew) }}
	args = append([]string{"--admin-svid", e.dir}, args...)
	if args[2] != "join" {
		args = append([]string{"--server", e.server}, args...)
	}
	err := a.main(e.t.Context(), args)
	e.notes = notes.String()
	return err
}

func (e *elsewhere) serial() string {
	e.t.Helper()
	source, err := loadAdmin(e.dir)
	if err != nil {
		e.t.Fatal(err)
	}
	return source.svid.Certificates[0].SerialNumber.Text(16)
}

func TestAdminSVIDIsRenewedByUse(t *testing.T) {
	d := testenv.Start(t)
	e := farHost(t, d, "viewer")
	first := e.serial()
	if err := e.kith("rules"); err != nil || e.serial() != first {
		t.Errorf("a young SVID: got %v, renewed %t, want it kept", err, e.serial() != first)
	}
	e.skew = 40 * time.Minute // of 60
	if err := e.kith("status"); err != nil || e.serial() == first {
		t.Errorf("past half its life: got %v, renewed %t, want it renewed", err, e.serial() != first)
	}
	second := e.serial()
	if err := os.Chmod(e.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Server.RemoveAdmin(t.Context(), "test", "alice"); err != nil {
		t.Fatal(err)
	}
	err := e.kith("status")
	if !fault.Is(err, fault.Denied) || !strings.Contains(e.notes, "warning: admin SVID not renewed") || e.serial() != second {
		t.Errorf("renewal of a removed admin: got %v, %q", err, e.notes)
	}
	if strings.Count(e.notes, "warning") != 1 {
		t.Errorf("the warning is said more than once: %q", e.notes)
	}
}

func TestEndedAdminSVIDSaysWhatToDo(t *testing.T) {
	e := farHost(t, testenv.Start(t), "admin")
	e.skew = 3 * time.Hour
	err := e.kith("rules")
	if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "the SVID of admin alice ended ") {
		t.Errorf("got %v, want Denied that says it ended", err)
	}
	if want := "kith ids admins add alice; then kith join --admin LINE"; !strings.HasSuffix(fault.HintOf(err), want) {
		t.Errorf("hint: got %q, want %q", fault.HintOf(err), want)
	}
}

func TestAdminFilesFailClosed(t *testing.T) {
	e := farHost(t, testenv.Start(t), "admin")
	path := func(name string) string { return filepath.Join(e.dir, name) }
	keep := map[string][]byte{}
	for _, name := range []string{adminSVID, adminKey, adminBundle} {
		text, err := os.ReadFile(path(name))
		if err != nil {
			t.Fatal(err)
		}
		keep[name] = text
	}
	for what, c := range map[string]struct {
		name string
		text []byte
		mode os.FileMode
		want string
	}{
		"open key":       {adminKey, keep[adminKey], 0o644, "can be read by others"},
		"no key":         {adminKey, nil, 0o600, "no PRIVATE KEY"},
		"chain as key":   {adminKey, keep[adminSVID], 0o600, `type "CERTIFICATE"`},
		"another's key":  {adminSVID, keep[adminBundle], 0o644, "admin SVID in"},
		"no roots":       {adminBundle, []byte("x"), 0o644, "no CERTIFICATE"},
		"key for roots":  {adminBundle, keep[adminKey], 0o644, `type "PRIVATE KEY"`},
		"endless":        {adminSVID, bytes.Repeat([]byte("A"), maxAdminFile+1), 0o644, "more than"},
		"foreign bundle": {adminBundle, otherBundle(t), 0o644, "server 127.0.0.1"},
	} {
		if err := os.WriteFile(path(c.name), c.text, c.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path(c.name), c.mode); err != nil {
			t.Fatal(err)
		}
		if err := e.kith("rules"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", what, err, c.want)
		}
		if err := os.WriteFile(path(c.name), keep[c.name], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path(c.name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.kith("rules"); err != nil {
		t.Errorf("with everything back: %v", err)
	}
}

// otherBundle is the roots of a trust domain of the same name that is not ours.
func otherBundle(t *testing.T) []byte {
	t.Helper()
	other := farHost(t, testenv.Start(t), "viewer")
	text, err := os.ReadFile(filepath.Join(other.dir, adminBundle))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestServerIsForVerbsThatAskOne(t *testing.T) {
	root := (&app{}).root()
	local := map[string]bool{
		"agent": true, "completion": true, "config": true, "demo": true, "dev": true, "get": true, "help": true,
		"import": true, "join": true, "log": true, "proxy": true, "run": true, "server": true, "version": true,
	}
	for _, verb := range root.Commands() {
		if got := asksServer(verb); got == local[verb.Name()] {
			t.Errorf("kith %s: asks a server: %t; a new verb is to be listed here or in asksServer", verb.Name(), got)
		}
	}
}
