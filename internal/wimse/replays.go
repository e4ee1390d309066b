package wimse

import (
	"crypto/sha256"
	"errors"
	"sync"
	"time"
)

const (
	// maxSeen bounds the proofs remembered, of 16 bytes each: with proofs of 30
	// seconds some 17 000 requests a second.
	maxSeen = 1 << 20
	// seenStep is the span of end times that are forgotten together.
	seenStep = 16
)

// ErrCrowded says that the memory of proofs is full: what cannot be remembered
// cannot be accepted.
var ErrCrowded = errors.New("more proofs are under way than can be remembered")

// ErrReplayed says that a proof was shown before.
var ErrReplayed = errors.New("the proof was shown before")

// Replays remembers proofs until they have ended. What is kept is bounded; when
// it is full nothing new is accepted. The zero value is ready; it is safe for
// concurrent use.
type Replays struct {
	mu    sync.Mutex
	seen  map[int64]map[[16]byte]struct{} // by end, in steps; guarded by mu
	count int                             // guarded by mu
	limit int                             // 0: maxSeen; set by tests before use
}

// spend takes a proof that ends at a time, once.
func (r *Replays) spend(id string, until, now time.Time) error {
	sum := sha256.Sum256([]byte(id))
	key := [16]byte(sum[:16])
	step := until.Unix()/seenStep + 1
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = make(map[int64]map[[16]byte]struct{})
	}
	if _, ok := r.seen[step][key]; ok {
		return ErrReplayed
	}
	if r.count >= r.most() {
		if r.forget(now); r.count >= r.most() {
			return ErrCrowded
		}
	}
	if r.seen[step] == nil {
		r.forget(now)
		r.seen[step] = make(map[[16]byte]struct{})
	}
	r.seen[step][key] = struct{}{}
	r.count++
	return nil
}

func (r *Replays) most() int {
	if r.limit > 0 {
		return r.limit
	}
	return maxSeen
}

// forget drops what has ended. The caller holds mu.
func (r *Replays) forget(now time.Time) {
	for step, keys := range r.seen {
		if step*seenStep < now.Unix() {
			r.count -= len(keys)
			delete(r.seen, step)
		}
	}
}
