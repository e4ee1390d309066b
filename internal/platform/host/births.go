package host

import "sync"

// maxBirths bounds the processes whose start is remembered.
const maxBirths = 1024

// births remembers when processes have started, which the kernel takes long to
// tell and which is for ever: not even exec changes it. Nothing else of a process
// is, so nothing else is remembered by its number.
type births struct {
	mu sync.Mutex
	of map[processNumber]uint64 // guarded by mu
}

// processNumber is what the kernel numbers a process by, once for as long as the
// machine runs: the inode of its pidfds, where these have inodes of their own.
type processNumber struct{ dev, inode uint64 }

func (b *births) get(n processNumber) (started uint64, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	started, known = b.of[n]
	return started, known
}

func (b *births) put(n processNumber, started uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.of) >= maxBirths {
		clear(b.of)
	}
	b.of[n] = started
}
