package host

import (
	"math"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// captured is a process that is held by its number, and what the kernel numbers it.
func captured(t *testing.T, h *Host, pid int) (started uint64, number processNumber) {
	t.Helper()
	peer, err := h.Find(int32(pid))
	if err != nil {
		t.Fatal(err)
	}
	defer peer.PIDFD.Close()
	raw, err := peer.PIDFD.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if controlErr := raw.Control(func(fd uintptr) { number, err = numberOf(int(fd)) }); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	return peer.Started, number
}

// Of a process only its start is remembered, by a number that is no other's: two
// pidfds of one process have the same, those of two processes never. A kernel that
// numbers no processes is asked each time.
func TestOnlyTheStartOfTheSameProcessIsRemembered(t *testing.T) {
	h := New(time.Now)
	child := connect(t, "connect")
	truth, number := captured(t, h, os.Getpid())
	_, again := captured(t, h, os.Getpid())
	its, other := captured(t, h, child.cmd.Process.Pid)
	if number != again {
		t.Fatalf("one process has the numbers %v and %v", number, again)
	}
	_, remembered := h.births.get(number)
	if numbered := number != other; remembered != numbered {
		t.Fatalf("numbers %v and %v of two processes: remembered %v", number, other, remembered)
	}
	if !remembered {
		return // Linux before 6.9: there is nothing that could be taken for another's
	}
	h.births.put(number, truth+1)
	if got, _ := captured(t, h, os.Getpid()); got != truth+1 {
		t.Errorf("start %d, want %d, which was remembered", got, truth+1)
	}
	if got, _ := captured(t, h, child.cmd.Process.Pid); got != its || its != child.peer.Started {
		t.Errorf("start of another process %d, then %d, want %d", its, got, child.peer.Started)
	}
}

// A file that is no pidfd numbers nothing.
func TestOnlyPidfdsNumberProcesses(t *testing.T) {
	f, err := os.Open("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if isNumbered(int(f.Fd())) {
		t.Error("a file of /proc numbers a process")
	}
}

func TestRememberedStartsAreBounded(t *testing.T) {
	b := births{of: make(map[processNumber]uint64)}
	for i := range uint64(3 * maxBirths) {
		b.put(processNumber{1, i}, i)
		if started, known := b.get(processNumber{1, i}); !known || started != i || len(b.of) > maxBirths {
			t.Fatalf("%d: got %d, %v among %d", i, started, known, len(b.of))
		}
	}
}

// A pidfd must not go to programs that are started.
func TestPidfdsAreClosedOnExec(t *testing.T) {
	h, c := New(time.Now), connect(t, "connect")
	found, err := h.Find(int32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer found.PIDFD.Close()
	for name, held := range map[string]*os.File{"found": found.PIDFD, "connected": c.peer.PIDFD} {
		if flags, err := unix.FcntlInt(held.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: flags %#x, %v", name, flags, err)
		}
	}
	if got, err := h.identify(&unix.Ucred{Pid: math.MaxInt32}, -1, math.MaxUint64); err == nil {
		t.Errorf("no pidfd at all: got %+v", got)
	}
}
