package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
)

func env(kv map[string]string) func(string) string { return func(k string) string { return kv[k] } }

func TestPaths(t *testing.T) {
	for _, tc := range []struct {
		name                             string
		uid                              int
		env                              map[string]string
		config, state, run, agent, admin string
	}{
		{
			"root", 0,
			map[string]string{"HOME": "/root", "XDG_STATE_HOME": "/x"},
			"/etc/kith/kith.yaml", "/var/lib/kith", "/run/kith", "/run/kith/agent.sock", "/run/kith/admin.sock",
		},
		{
			"user", 7,
			map[string]string{"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"},
			"/home/u/.config/kith/kith.yaml", "/home/u/.local/state/kith", "/run/user/7/kith", "/run/user/7/kith/agent.sock", "/run/user/7/kith/admin.sock",
		},
		{
			"user without a session", 7,
			map[string]string{"HOME": "/home/u", "XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "relative"},
			"/c/kith/kith.yaml", "/home/u/.local/state/kith", "/tmp/kith-7", "/tmp/kith-7/agent.sock", "/tmp/kith-7/admin.sock",
		},
		{
			"overrides", 0,
			map[string]string{"KITH_CONFIG": "/a", "KITH_STATE_DIR": "/b", "KITH_RUN_DIR": "/c", "KITH_AGENT_SOCKET": "unix:///d", "KITH_ADMIN_SOCKET": "/e"},
			"/a", "/b", "/c", "/d", "/e",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := config.DefaultPaths(env(tc.env), tc.uid)
			if err != nil {
				t.Fatal(err)
			}
			got := [5]string{p.Config, p.State, p.Run, p.AgentSocket, p.AdminSocket}
			if want := [5]string{tc.config, tc.state, tc.run, tc.agent, tc.admin}; got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func TestSocketPathTooLong(t *testing.T) {
	_, err := config.DefaultPaths(env(map[string]string{"KITH_RUN_DIR": "/" + strings.Repeat("d", 120)}), 0)
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "socket path of 132 bytes, at most") {
		t.Errorf("got %v", err)
	}
	if got, want := fault.HintOf(err), "set KITH_RUN_DIR to a shorter directory"; got != want {
		t.Errorf("hint %q, want %q", got, want)
	}
}

func TestNoHome(t *testing.T) {
	if _, err := config.DefaultPaths(env(nil), 7); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
		t.Errorf("got %v, want an invalid error with a hint", err)
	}
}

func TestVariableBeatsFileBeatsDefault(t *testing.T) {
	f := config.Default()
	f.Agent.Socket, f.Server.Socket = "/f/agent", "/f/admin"
	p, err := config.DefaultPaths(env(map[string]string{"KITH_AGENT_SOCKET": "/e/agent"}), 0)
	if err != nil {
		t.Fatal(err)
	}
	if p = p.With(f); p.AgentSocket != "/e/agent" || p.AdminSocket != "/f/admin" {
		t.Errorf("agent %s, admin %s; want /e/agent, /f/admin", p.AgentSocket, p.AdminSocket)
	}
	if p = p.With(config.Default()); p.AdminSocket != "/f/admin" {
		t.Errorf("an empty key changed the path to %s", p.AdminSocket)
	}
}

func TestDirectoriesArePrivate(t *testing.T) {
	dir := t.TempDir()
	p, err := config.DefaultPaths(env(map[string]string{"HOME": dir, "XDG_RUNTIME_DIR": filepath.Join(dir, "r")}), 7)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // made, then found
		if err := p.MakeRun(); err != nil {
			t.Fatal(err)
		}
		if err := p.MakeState(); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{p.Run, p.State} {
		if info, err := os.Stat(d); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want mode 0700", d, info.Mode(), err)
		}
	}
	if err := os.Chmod(p.Run, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := p.MakeRun(); !fault.Is(err, fault.Denied) {
		t.Errorf("directory open to all: %v, want denied", err)
	}
	p.Run = filepath.Join(dir, "file")
	if err := os.WriteFile(p.Run, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.MakeRun(); !fault.Is(err, fault.Invalid) {
		t.Errorf("a file in the place: %v, want invalid", err)
	}
}

// T6: what another user has put into a directory for everybody is not ours.
func TestCheckOwners(t *testing.T) {
	shared := t.TempDir()
	if err := os.Chmod(shared, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(shared, "kith-1")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	owner := os.Geteuid()
	if owner == 0 { // what is root's is trusted
		owner = 12345
		if err := os.Chown(dir, owner, -1); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "admin.sock")
	if err := config.CheckOwners(socket, owner); err != nil {
		t.Errorf("one's own: %v", err)
	}
	if err := config.CheckOwners(socket, owner+1); !fault.Is(err, fault.Denied) {
		t.Errorf("another user's: %v", err)
	}
}
