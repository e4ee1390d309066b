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
// it is full nothing new is accepted, and when it is half full nothing of who has
// an eighth of it: no caller keeps the others out, though its proofs are good and
// whatever policy says of it. The zero value is ready; it is safe for concurrent
// use.
type Replays struct {
	mu    sync.Mutex
	seen  map[int64]map[digest]proofs // by end, in steps, and by caller; guarded by mu
	of    map[digest]int              // how many each caller has; guarded by mu
	count int                         // guarded by mu
	limit int                         // 0: maxSeen; set by tests before use
}

type (
	digest [16]byte
	proofs map[digest]struct{}
)

func digestOf(text string) digest {
	sum := sha256.Sum256([]byte(text))
	return digest(sum[:])
}

// spend takes a proof of a caller that ends at a time, once.
func (r *Replays) spend(who, id string, until, now time.Time) error {
	caller, key, step := digestOf(who), digestOf(id), until.Unix()/seenStep+1
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen, r.of = make(map[int64]map[digest]proofs), make(map[digest]int)
	}
	if _, ok := r.seen[step][caller][key]; ok {
		return ErrReplayed
	}
	if !r.room(caller) {
		if r.forget(now); !r.room(caller) {
			return ErrCrowded
		}
	}
	if r.seen[step] == nil {
		r.forget(now)
		r.seen[step] = make(map[digest]proofs)
	}
	if r.seen[step][caller] == nil {
		r.seen[step][caller] = make(proofs)
	}
	r.seen[step][caller][key] = struct{}{}
	r.of[caller]++
	r.count++
	return nil
}

// room says whether one more of this caller can be kept. The caller holds mu.
func (r *Replays) room(caller digest) bool {
	most := r.most()
	return r.count < most && (2*r.count < most || 8*r.of[caller] < most)
}

func (r *Replays) most() int {
	if r.limit > 0 {
		return r.limit
	}
	return maxSeen
}

// forget drops what has ended. The caller holds mu.
func (r *Replays) forget(now time.Time) {
	for step, callers := range r.seen {
		if step*seenStep >= now.Unix() {
			continue
		}
		for caller, keys := range callers {
			r.count -= len(keys)
			if r.of[caller] -= len(keys); r.of[caller] == 0 {
				delete(r.of, caller)
			}
		}
		delete(r.seen, step)
	}
}
