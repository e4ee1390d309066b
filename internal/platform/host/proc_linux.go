package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kith-id/kith/internal/attest"
)

// procStat is what is used of /proc/PID/stat.
type procStat struct {
	parent  int32
	started uint64
}

// procFile reads a file of a process, bounded. It is read with bare system
// calls: an os.File costs more than the kernel's answer, and each message to a
// workload needs three of these.
func procFile(pid int32, name string) ([]byte, error) {
	path := procPath(pid, name)
	fd, err := retried(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	text := make([]byte, 0, firstRead)
	for {
		n, err := retried(func() (int, error) { return unix.Read(fd, text[len(text):cap(text)]) })
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return text, nil
		}
		if text = text[:len(text)+n]; len(text) > maxProcFile {
			return nil, fmt.Errorf("%s is longer than %d bytes", path, maxProcFile)
		}
		if len(text) == cap(text) {
			text = slices.Grow(text, len(text))
		}
	}
}

// firstRead holds the status of a process that is in few groups.
const firstRead = 2 << 10

func procPath(pid int32, name string) string {
	return "/proc/" + strconv.Itoa(int(pid)) + "/" + name
}

// retried makes a system call again that a signal has interrupted.
func retried(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func readStat(pid int32) (procStat, error) {
	text, err := procFile(pid, "stat")
	if err != nil {
		return procStat{}, err
	}
	return parseStat(text)
}

// parseStat reads proc(5) stat: the command, in parentheses, may itself hold
// spaces and parentheses, so fields are counted from the last one.
func parseStat(text []byte) (procStat, error) {
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return procStat{}, fmt.Errorf("process status without a command")
	}
	const parent, start = 1, 19 // fields 4 and 22
	var fields [start + 1]string
	n := 0
	for field := range strings.FieldsSeq(string(text[end+1:])) {
		if fields[n] = field; n == start {
			n++
			break
		}
		n++
	}
	if n <= start {
		return procStat{}, fmt.Errorf("process status with %d fields", n)
	}
	ppid, err := strconv.ParseInt(fields[parent], 10, 32)
	if err != nil {
		return procStat{}, fmt.Errorf("parent process: %w", err)
	}
	started, err := strconv.ParseUint(fields[start], 10, 64)
	if err != nil {
		return procStat{}, fmt.Errorf("start of process: %w", err)
	}
	return procStat{parent: int32(ppid), started: started}, nil
}

// owner is a process's effective user and group and its supplementary groups.
type owner struct {
	uid, gid uint32
	groups   []uint32
}

func readOwner(pid int32) (owner, error) {
	text, err := procFile(pid, "status")
	if err != nil {
		return owner{}, err
	}
	return parseOwner(string(text))
}

func parseOwner(text string) (owner, error) {
	var o owner
	found := map[string]bool{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, ":")
		if !ok || key != "Uid" && key != "Gid" && key != "Groups" {
			continue
		}
		if found[key] {
			return owner{}, fmt.Errorf("process status: %s twice", key)
		}
		found[key] = true
		var err error
		switch key {
		case "Uid", "Gid": // real, effective, saved, file system
			fields := strings.Fields(value)
			if len(fields) != 4 {
				return owner{}, fmt.Errorf("process status: %s has %d fields", key, len(fields))
			}
			into := &o.uid
			if key == "Gid" {
				into = &o.gid
			}
			*into, err = number(fields[1])
		case "Groups":
			for field := range strings.FieldsSeq(value) {
				var gid uint32
				if gid, err = number(field); err != nil {
					break
				}
				o.groups = append(o.groups, gid)
			}
		}
		if err != nil {
			return owner{}, fmt.Errorf("process status: %s: %w", key, err)
		}
	}
	if len(found) != 3 {
		return owner{}, fmt.Errorf("process status names no user or no groups")
	}
	return o, nil
}

func number(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err
}

// programPath is where a program file says it lies, "" when it has no
// trustworthy name: deleted, in memory, or under another name here. The kernel
// gives the name in the process's own mount namespace: it counts only if it
// leads to the same file in ours.
func programPath(pid int32, exe attest.Program) string {
	path, err := os.Readlink(procPath(pid, "exe"))
	if err != nil || strings.HasPrefix(path, "/memfd:") || strings.HasSuffix(path, " (deleted)") {
		return ""
	}
	var here unix.Stat_t
	if statFile(path, &here) != nil || here.Mode&unix.S_IFMT != unix.S_IFREG || programIn(&here) != exe {
		return ""
	}
	return path
}

// openProgram opens the program a process runs, through the kernel's own link,
// so that renaming or replacing the file on disk changes nothing.
func openProgram(pid int32) (*os.File, fileVersion, error) {
	f, err := os.Open(procPath(pid, "exe"))
	if err != nil {
		return nil, fileVersion{}, err
	}
	var st unix.Stat_t
	if _, err := retried(func() (int, error) { return 0, unix.Fstat(int(f.Fd()), &st) }); err != nil {
		f.Close()
		return nil, fileVersion{}, err
	}
	return f, fileVersion{
		Program: programIn(&st), size: st.Size,
		mtime: time.Unix(st.Mtim.Unix()), ctime: time.Unix(st.Ctim.Unix()),
	}, nil
}

func programIn(st *unix.Stat_t) attest.Program {
	return attest.Program{Dev: st.Dev, Inode: st.Ino}
}

// statFile is os.Stat without what that allocates, and without the depth of
// retried: see capture.
func statFile(path string, into *unix.Stat_t) error {
	err := unix.Stat(path, into)
	for errors.Is(err, unix.EINTR) {
		err = unix.Stat(path, into)
	}
	if err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return nil
}

// programOf is the program's number; the zero Program when it cannot be read,
// as for processes of others when the agent is not root.
func programOf(pid int32) (attest.Program, error) {
	var st unix.Stat_t
	err := statFile(procPath(pid, "exe"), &st)
	if errors.Is(err, os.ErrPermission) {
		return attest.Program{}, nil
	}
	if err != nil {
		return attest.Program{}, err
	}
	return programIn(&st), nil
}

// sameNamespaces reports whether a process shares the agent's pid and cgroup
// namespaces; a container seldom does.
func sameNamespaces(pid int32) bool {
	for _, ns := range []string{"pid", "cgroup"} {
		own, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			return false
		}
		its, err := os.Readlink(procPath(pid, "ns/"+ns))
		if err != nil || own != its {
			return false
		}
	}
	return true
}
