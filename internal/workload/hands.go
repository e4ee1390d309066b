package workload

import "time"

// handRests is how long a hand waits for more to do before it ends.
const handRests = 50 * time.Millisecond

// hands do the deep part of a stream's work: asking who the peer is, encoding,
// sending. A stream waits for years on a stack of its own, and a stack that had
// to grow once stays grown: with its work done here it keeps 4 KiB less, and a
// short one need not grow its own.
type hands struct {
	jobs chan job // unbuffered: who sends has found a hand that waits
}

type job struct {
	work func() error
	done chan<- error
}

func newHands() *hands { return &hands{jobs: make(chan job)} }

// do does the work on a hand that is free, or on a new one: work may block for as
// long as a client that does not read.
func (h *hands) do(work func() error) error {
	done := make(chan error, 1)
	j := job{work, done}
	select {
	case h.jobs <- j:
	default:
		go h.run(j)
	}
	return <-done
}

func (h *hands) run(j job) {
	rest := time.NewTimer(handRests)
	defer rest.Stop()
	for {
		j.done <- j.work()
		rest.Reset(handRests)
		select {
		case j = <-h.jobs:
		case <-rest.C:
			return
		}
	}
}
