package ca

import (
	"errors"
	"io"
	"math/rand/v2"
	"sync"
)

// errPower is what a disk says after its power went.
var errPower = errors.New("power is gone")

// sector is what is written whole: smaller than on any true disk, so that
// headers tear too.
const sector = 32

// disk is a file that keeps what was written apart from what was synced, and
// that can lose its power at any operation.
type disk struct {
	mu      sync.Mutex
	durable []byte
	written []byte // what a reader sees
	dirty   map[int]bool
	until   int // operations that still work; below 0: all
	ops     int
	syncErr error
}

func newDisk(content []byte) *disk {
	return &disk{durable: append([]byte{}, content...), written: append([]byte{}, content...), dirty: map[int]bool{}, until: -1}
}

func (d *disk) step() error {
	d.ops++
	if d.until >= 0 && d.ops > d.until {
		return errPower
	}
	return nil
}

func (d *disk) ReadAt(p []byte, at int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at+int64(len(p)) > int64(len(d.written)) {
		return 0, io.EOF
	}
	return copy(p, d.written[at:]), nil
}

func (d *disk) WriteAt(p []byte, at int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.step()
	// A write that fails has still reached the cache, as it may.
	copy(d.written[at:], p)
	for s := int(at) / sector; s <= (int(at)+len(p)-1)/sector; s++ {
		d.dirty[s] = true
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	if d.syncErr != nil {
		return d.syncErr
	}
	for s := range d.dirty { // the detector makes copies of the whole disk dear
		at, end := s*sector, min(len(d.written), (s+1)*sector)
		copy(d.durable[at:end], d.written[at:end])
	}
	clear(d.dirty)
	return nil
}

func (*disk) Close() error { return nil }

// afterCrash is what the disk may hold when the power is back: what was
// synced, and of the rest any sectors.
func (d *disk) afterCrash(random *rand.Rand) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	content := append([]byte{}, d.durable...)
	for s := range d.dirty {
		if random.IntN(2) == 0 {
			copy(content[s*sector:min(len(content), (s+1)*sector)], d.written[s*sector:])
		}
	}
	return content
}
