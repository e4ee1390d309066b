package proxy

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	maxIdle      = 1024 // connections kept by one pool
	maxIdleOfOne = 256  // of those to one place
	// answerPatience is how long an answer is waited for before we look whether
	// the caller is still there; it is, at most, twice that.
	answerPatience = time.Second
)

// far is a connection to the other side, for one exchange after another.
type far struct {
	conn   net.Conn
	socket *socket
	intake *intake
	in     []byte // what was read and not used: in[r:w]; borrowed while there is something in it
	r, w   int

	reused bool      // it has carried an exchange before
	idle   time.Time // since when nobody uses it; guarded by the pool's mu
	until  time.Time // the read deadline
}

func newFar(conn net.Conn, from *sheets) (*far, error) {
	s, err := socketOf(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &far{conn: conn, socket: s, intake: newIntake(conn, from)}, nil
}

// fill reads more. It gives up after a while, with an error that is a timeout:
// then the caller may be looked after and fill be called again.
func (f *far) fill() error {
	f.patience()
	if f.r == f.w {
		f.release()
		piece, err := f.intake.next()
		f.in, f.w = f.intake.piece, len(piece)
		if f.intake.piece = nil; f.w > 0 {
			return nil
		}
		return err
	}
	if f.pack(); f.w == len(f.in) {
		f.in = append(f.in, make([]byte, len(f.in))...)
	}
	n, err := f.conn.Read(f.in[f.w:])
	f.w += n
	f.intake.unsure = f.intake.wire != nil && f.w == len(f.in)
	if n > 0 {
		return nil
	}
	return err
}

// patience bounds the next read.
func (f *far) patience() {
	if now := time.Now(); f.until.Sub(now) < answerPatience {
		f.until = now.Add(2 * answerPatience)
		f.conn.SetReadDeadline(f.until) //nolint:errcheck // a closed connection shows in the read
	}
}

// pack moves what is left to the front, so that there is room to read more.
func (f *far) pack() {
	if f.r > 0 {
		f.w = copy(f.in, f.in[f.r:f.w])
		f.r = 0
	}
}

// release gives the borrowed space back.
func (f *far) release() {
	if f.in != nil {
		f.intake.pool.Put(f.in)
		f.in, f.r, f.w = nil, 0, 0
	}
}

// buffered says how much of what arrived has not been looked at.
func (f *far) buffered() int { return f.w - f.r }

// spent says that all of what arrived was used: nothing waits anywhere.
func (f *far) spent() bool {
	return f.r == f.w && !f.intake.unsure && (f.intake.wire == nil || f.intake.wire.Buffered() == 0)
}

// pool keeps idle connections by where they lead.
type pool[K comparable] struct {
	keep   time.Duration // how long
	sheets *sheets

	mu    sync.Mutex
	idle  map[K][]*far // the latest used last; guarded by mu
	count int          // guarded by mu
	sweep *time.Timer  // while there are any; guarded by mu
	ended bool         // guarded by mu
}

func newPool[K comparable](keep time.Duration, from *sheets) *pool[K] {
	return &pool[K]{keep: keep, sheets: from, idle: make(map[K][]*far)}
}

// take is an idle connection on which nothing has happened, or nil.
func (p *pool[K]) take(to K) *far {
	now := time.Now()
	for {
		f := p.last(to)
		if f == nil || now.Sub(f.idle) < p.keep && f.spent() && f.socket.isQuiet() {
			return f
		}
		f.conn.Close()
	}
}

func (p *pool[K]) last(to K) *far {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.idle[to]
	if len(all) == 0 {
		return nil
	}
	f := all[len(all)-1]
	all[len(all)-1] = nil
	p.idle[to] = all[:len(all)-1]
	p.count--
	return f
}

// give keeps a connection whose last exchange is over.
func (p *pool[K]) give(to K, f *far) {
	if !p.keeps(to, f) {
		f.conn.Close()
	}
}

func (p *pool[K]) keeps(to K, f *far) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.count >= maxIdle || len(p.idle[to]) >= maxIdleOfOne {
		return false
	}
	f.reused, f.idle = true, time.Now()
	p.idle[to] = append(p.idle[to], f)
	if p.count++; p.sweep == nil {
		p.sweep = time.AfterFunc(p.keep, p.clean)
	}
	return true
}

// drop closes what nobody has used since a time.
func (p *pool[K]) drop(before time.Time) {
	for _, f := range p.unused(before) {
		f.conn.Close()
	}
}

// close ends the keeping; connections in use close when they come back.
func (p *pool[K]) close() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.drop(time.Now())
}

func (p *pool[K]) unused(before time.Time) (drop []*far) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for to, all := range p.idle {
		kept := slices.DeleteFunc(all, func(f *far) bool {
			if f.idle.After(before) {
				return false
			}
			drop = append(drop, f)
			return true
		})
		if p.idle[to] = kept; len(kept) == 0 {
			delete(p.idle, to)
		}
	}
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
	if p.count -= len(drop); p.count > 0 {
		p.sweep = time.AfterFunc(p.keep/2, p.clean)
	}
	return drop
}

// clean closes what nobody has used for a while.
func (p *pool[K]) clean() { p.drop(time.Now().Add(-p.keep)) }

// borrow is a connection of the pool, or a new one where there is none or fresh
// is asked for.
func (p *pool[K]) borrow(ctx context.Context, to K, fresh bool, dial func(context.Context) (net.Conn, error)) (*far, error) {
	if !fresh {
		if f := p.take(to); f != nil {
			return f, nil
		}
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	return newFar(conn, p.sheets)
}
