// Package host tells local processes apart by what the kernel says of them: the
// process behind a unix socket, its user, program, systemd unit and ancestors.
// It knows nothing of containers.
package host

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
)

// The attributes this package measures.
const (
	attrUID    = "workload.unix.uid"
	attrUser   = "workload.unix.user"
	attrGID    = "workload.unix.gid"
	attrGroup  = "workload.unix.group"
	attrGroups = "workload.unix.groups"
	attrPID    = "workload.unix.pid"
	attrPath   = "workload.unix.path"
	attrSHA256 = "workload.unix.sha256"
	attrUnit   = "workload.systemd.unit"
	attrSlice  = "workload.systemd.slice"
)

const (
	// maxProgram bounds the program files that are hashed: larger ones have no
	// sha256 attribute, so that no process can keep the agent reading.
	maxProgram = 512 << 20
	// maxHashes bounds the table of known hashes.
	maxHashes = 512
	// maxLineage bounds the walk to a process's ancestors.
	maxLineage = 64
	// maxProcFile bounds what is read of one file under /proc.
	maxProcFile = 64 << 10
)

// Host inspects the processes of this machine. It implements attest.Sparing and
// attest.Processes.
type Host struct {
	names  names
	recent recent
	births births

	mu     sync.Mutex
	hashes map[fileVersion]string // guarded by mu
}

var (
	_ attest.Sparing   = (*Host)(nil)
	_ attest.Processes = (*Host)(nil)
	_ attest.Numbering = (*Host)(nil)
)

// New returns a Host that is ready to use.
func New(now func() time.Time) *Host {
	return &Host{recent: recent{now: now, all: make(map[sighting]measured)}, births: births{of: make(map[processNumber]uint64)}, hashes: make(map[fileVersion]string)}
}

// fileVersion is one content of one file: any change to it changes a field.
type fileVersion struct {
	attest.Program
	size         int64
	mtime, ctime time.Time
}

// hash is the SHA-256 of an open program file, from the table if the very same
// file was hashed before.
func (h *Host) hash(f *os.File, version fileVersion) (string, error) {
	if version.size > maxProgram {
		return "", fmt.Errorf("program of %d bytes, at most %d are hashed", version.size, maxProgram)
	}
	h.mu.Lock()
	known, ok := h.hashes[version]
	h.mu.Unlock()
	if ok {
		return known, nil
	}
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(f, maxProgram+1))
	if err != nil {
		return "", fmt.Errorf("hash program: %w", err)
	}
	if n != version.size {
		return "", fmt.Errorf("program changed while it was hashed")
	}
	text := hex.EncodeToString(sum.Sum(nil))
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.hashes) >= maxHashes {
		for v := range h.hashes { // any one: the table only saves time
			delete(h.hashes, v)
			break
		}
	}
	h.hashes[version] = text
	return text, nil
}

// gone is the one answer for a process that is not, or no longer, the one that
// connected.
func gone(pid int32, why string) error {
	return fault.Deniedf("process %d %s", pid, why)
}
