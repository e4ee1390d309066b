package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/kith-id/kith/internal/fault"
)

// Paths is where things are on this host: root has the system's places, an
// ordinary user the XDG ones. A KITH_* variable beats kith.yaml, which beats
// these.
type Paths struct {
	Config      string // kith.yaml
	State       string // what must survive a restart; private
	Run         string // sockets
	AgentSocket string
	AdminSocket string

	shared                 bool // Run is entered by other users
	agentNamed, adminNamed bool // by a variable: kith.yaml does not count
}

// DefaultPaths reads the variables KITH_CONFIG, KITH_STATE_DIR, KITH_RUN_DIR,
// KITH_AGENT_SOCKET and KITH_ADMIN_SOCKET, and the XDG ones for a user that is
// not root. It touches nothing on disk.
func DefaultPaths(getenv func(string) string, uid int) (Paths, error) {
	p := Paths{Config: "/etc/kith/kith.yaml", State: "/var/lib/kith", Run: "/run/kith", shared: true}
	if uid != 0 {
		p = userPaths(getenv, uid)
	}
	override(&p.Config, getenv("KITH_CONFIG"))
	override(&p.State, getenv("KITH_STATE_DIR"))
	override(&p.Run, getenv("KITH_RUN_DIR"))
	if p.Config == "" || p.State == "" {
		return Paths{}, fault.Hint(fault.Invalidf("no home directory: HOME is not set"),
			"set HOME, or KITH_CONFIG and KITH_STATE_DIR")
	}
	p.AgentSocket, p.AdminSocket = filepath.Join(p.Run, "agent.sock"), filepath.Join(p.Run, "admin.sock")
	p.agentNamed = override(&p.AgentSocket, strings.TrimPrefix(getenv("KITH_AGENT_SOCKET"), "unix://"))
	p.adminNamed = override(&p.AdminSocket, strings.TrimPrefix(getenv("KITH_ADMIN_SOCKET"), "unix://"))
	return p, errors.Join(CheckSocketPath(p.AgentSocket), CheckSocketPath(p.AdminSocket))
}

// userPaths are the XDG places; empty where the home is unknown.
func userPaths(getenv func(string) string, uid int) Paths {
	under := func(variable, fallback string) string {
		// XDG: a relative path is to be ignored.
		if dir := getenv(variable); filepath.IsAbs(dir) {
			return filepath.Join(dir, "kith")
		}
		if home := getenv("HOME"); filepath.IsAbs(home) {
			return filepath.Join(home, fallback, "kith")
		}
		return ""
	}
	p := Paths{State: under("XDG_STATE_HOME", ".local/state"), Run: "/tmp/kith-" + strconv.Itoa(uid)}
	if dir := under("XDG_CONFIG_HOME", ".config"); dir != "" {
		p.Config = filepath.Join(dir, "kith.yaml")
	}
	if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		p.Run = filepath.Join(dir, "kith")
	}
	return p
}

// override sets *to unless value is empty, and says whether it did.
func override(to *string, value string) bool {
	if value == "" {
		return false
	}
	*to = value
	return true
}

// With takes the sockets named in the file, where no variable names them.
func (p Paths) With(f File) Paths {
	if !p.agentNamed {
		override(&p.AgentSocket, f.Agent.Socket)
	}
	if !p.adminNamed {
		override(&p.AdminSocket, f.Server.Socket)
	}
	return p
}

// MakeRun makes the directory of the sockets: 0755 for root, whose agent serves
// every user, else 0700. One that exists must belong to this user and be
// writable by nobody else, as in /tmp anybody could have made it first.
func (p Paths) MakeRun() error {
	if p.shared {
		return makeOwned(p.Run, 0o755, 0o022)
	}
	return makeOwned(p.Run, 0o700, 0o022)
}

// MakeState makes the directory of keys and data, 0700.
func (p Paths) MakeState() error { return makeOwned(p.State, 0o700, 0o022) }

// makeOwned makes dir, or accepts it if it is ours and has none of the
// forbidden mode bits.
func makeOwned(dir string, mode, forbidden fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make the parent of %s: %w", dir, err)
	}
	err := os.Mkdir(dir, mode)
	if err == nil {
		return os.Chmod(dir, mode) // the umask may have taken bits
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Stat, not Lstat, would follow a link somebody else may move. A link of our
	// own (or root's) is fine: only its owner can.
	link, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	switch uid := os.Geteuid(); {
	case !info.IsDir():
		return fault.Invalidf("%s is not a directory", dir)
	case !ownedBy(link, uid) || !ownedBy(info, uid):
		return fault.Hint(fault.Deniedf("%s belongs to another user", dir), "remove it, or set KITH_RUN_DIR and KITH_STATE_DIR")
	case info.Mode().Perm()&forbidden != 0:
		return fault.Hint(fault.Deniedf("%s can be written by others (mode %04o)", dir, info.Mode().Perm()), "chmod go-w %s", dir)
	}
	return nil
}

// CheckOwners refuses a socket that stands where anybody could have put it, as
// below /tmp, and somebody else has: who answers there is no program of ours.
func CheckOwners(socket string, uid int) error {
	for at := socket; at != filepath.Dir(at); at = filepath.Dir(at) {
		parent, err := os.Stat(filepath.Dir(at))
		if err != nil || parent.Mode().Perm()&0o002 == 0 {
			continue // what is not there shows when it is dialled
		}
		if info, err := os.Lstat(at); err == nil && !ownedBy(info, uid) {
			return fault.Hint(fault.Deniedf("%s belongs to another user", at), "set KITH_RUN_DIR to the directory of the program you mean")
		}
	}
	return nil
}

// ownedBy accepts the user and root.
func ownedBy(info fs.FileInfo, uid int) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && (int(st.Uid) == uid || st.Uid == 0)
}
