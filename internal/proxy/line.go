package proxy

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	lineSpace    = 4 << 10  // what a line holds while nothing is under way
	maxLineHead  = 16 << 10 // a longer head is net/http's
	headPatience = 10 * time.Second
	idlePatience = 5 * time.Minute
	idleSlack    = time.Minute // by how much it may be shorter, so that not every request moves a timer
	lineFarewell = 500 * time.Millisecond
	drainRest    = 250 * time.Millisecond // before idle connections are closed
)

// lane is what differs between the two sides of a pair of proxies.
type lane interface {
	// takes says whether a request is of the usual kind, which is served here. Of
	// all others, and all that follow on their connection, net/http takes care.
	takes(*head) bool
	// ask decides a request and appends its head, without the framing of its body
	// and the blank line, to out. Where it may not pass, refuse answers instead.
	ask(l *line, out []byte) (request []byte, refuse http.HandlerFunc)
	// connect is a connection for the request that was asked last; a fresh one is
	// no kept one. done gives it back to be kept.
	connect(ctx context.Context, l *line, fresh bool) (f *far, err error)
	done(l *line, f *far)
	// drops says whether a field of an answer is ours alone.
	drops(kind) bool
	// fail answers when the other side does not.
	fail(rw http.ResponseWriter, r *http.Request, err error)
	// handOver gives a connection to net/http, with what was read of it.
	handOver(conn net.Conn, read []byte)
}

// line is one HTTP/1.1 connection of a caller. One goroutine reads a request,
// sends it on, reads the answer and sends that back: a program between two
// others needs no more, and each goroutine more costs a request more than
// deciding it does.
type line struct {
	set    *lines
	lane   lane
	conn   net.Conn
	socket *socket
	ctx    context.Context // of the set; ends when what is under way is cut

	in    []byte    // what was read and not used: in[r:w]; owned by who reads requests
	r, w  int       // likewise
	until time.Time // the read deadline

	busy atomic.Bool // between a head and the end of its answer
	far  atomic.Pointer[far]

	head   head
	answer answerHead
	body   body // of the request
	stale  bool // head's bytes have been written over
	known  any  // what the lane keeps for the connection; owned by it
}

// serve reads requests until the connection ends, or is net/http's.
func (l *line) serve() {
	l.wait(headPatience, 0)
	for {
		n, err := l.awaitHead()
		if err != nil {
			l.conn.Close()
			return
		}
		if n == 0 || l.head.read(l.in[l.r:l.r+n]) != nil || l.head.http10 || l.head.names || l.head.upgrade || l.head.expect || !l.lane.takes(&l.head) {
			l.busy.Store(true) // from here on it is not ours to close
			l.wait(0, 0)
			l.lane.handOver(l.conn, append([]byte(nil), l.in[l.r:l.w]...))
			return
		}
		l.busy.Store(true)
		goesOn := l.exchange(n)
		l.busy.Store(false)
		if !goesOn || l.set.draining.Load() {
			l.farewell()
			return
		}
		if l.stale = false; l.r == l.w && len(l.in) > maxLineHead {
			l.in, l.r, l.w = nil, 0, 0
		}
		l.wait(idlePatience, idleSlack)
	}
}

// wait bounds the time until the next read has something; slack is by how much
// the bound may be shorter. No patience is no bound.
func (l *line) wait(patience, slack time.Duration) {
	if patience == 0 {
		l.until = time.Time{}
		l.conn.SetReadDeadline(l.until) //nolint:errcheck // a closed connection shows in the read
		return
	}
	now := time.Now()
	if left := l.until.Sub(now); left <= patience && left >= patience-slack && slack > 0 {
		return
	}
	l.until = now.Add(patience)
	l.conn.SetReadDeadline(l.until) //nolint:errcheck // a closed connection shows in the read
}

// awaitHead reads until a whole head is there and returns its length; 0 for one
// that is not for us: too long, or with other line ends than it should have.
func (l *line) awaitHead() (int, error) {
	for seen := 0; ; {
		// RFC 9112 2.2: a server should ignore an empty line before the request.
		for seen == 0 && l.w-l.r >= 2 && l.in[l.r] == '\r' && l.in[l.r+1] == '\n' {
			l.r += 2
		}
		text := l.in[l.r:l.w]
		if n := headEnd(text, seen); n > 0 {
			return n, nil
		}
		if seen = len(text); seen >= maxLineHead {
			return 0, nil
		}
		first := seen == 0
		if err := l.read(); err != nil {
			return 0, err
		}
		if first && l.w-l.r > 0 && headEnd(l.in[l.r:l.w], 0) == 0 {
			l.wait(headPatience, 0) // the rest of a head that has begun
		}
	}
}

// read gets more of what the caller says.
func (l *line) read() error {
	switch {
	case l.in == nil:
		l.in = make([]byte, lineSpace)
	case l.r == l.w:
		l.r, l.w = 0, 0
	case l.w == len(l.in) && l.r > 0:
		l.w = copy(l.in, l.in[l.r:l.w])
		l.r = 0
	case l.w == len(l.in):
		l.in = append(l.in, make([]byte, len(l.in))...)
	}
	n, err := l.conn.Read(l.in[l.w:])
	if l.w += n; n > 0 {
		return nil
	}
	return err
}

// farewell closes a connection that has been answered. Closing with bytes
// unread, or before bytes that are on their way, would be a reset, and could take
// the answer back.
func (l *line) farewell() {
	if half, ok := l.conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		l.conn.SetReadDeadline(time.Now().Add(lineFarewell)) //nolint:errcheck // a closed connection shows in the read
		discard(l.conn, l.in)
	}
	l.conn.Close()
}

// discard reads what is still coming, at most lingerBytes.
func discard(conn net.Conn, into []byte) {
	for left := lingerBytes; left > 0; {
		n, err := conn.Read(into)
		if left -= n; err != nil {
			return
		}
	}
}

// lines are the connections of one listener that are served here.
type lines struct {
	lane     lane
	buffers  *buffers // for long bodies
	sheets   *sheets
	tally    *tally
	draining atomic.Bool

	mu      sync.Mutex
	all     map[*line]struct{} // guarded by mu
	running sync.WaitGroup
}

func newLines(lane lane, m *meter, direction string) *lines {
	return &lines{lane: lane, buffers: m.buffers, sheets: m.sheets, tally: m.tally(direction), all: make(map[*line]struct{})}
}

// serve serves one connection until it ends; known is what the lane keeps of it.
// What is under way when ctx ends is cut.
func (s *lines) serve(ctx context.Context, conn net.Conn, known any) {
	socket, err := socketOf(conn)
	if err != nil {
		conn.Close()
		return
	}
	l := &line{set: s, lane: s.lane, conn: conn, socket: socket, ctx: ctx, known: known}
	s.mu.Lock()
	if s.draining.Load() {
		s.mu.Unlock()
		conn.Close()
		return
	}
	s.all[l] = struct{}{}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	defer func() {
		s.mu.Lock()
		delete(s.all, l)
		s.mu.Unlock()
	}()
	l.serve()
}

// drain closes what is idle and returns when the rest has ended; what is left
// when ctx ends is cut.
func (s *lines) drain(ctx context.Context) {
	s.mu.Lock()
	s.draining.Store(true)
	s.mu.Unlock()
	// A request may be on its way on a connection that is idle here, and could
	// not always be sent again: it is answered, with the word that the connection
	// ends. The callers know by then, so little else comes.
	rest := time.NewTimer(drainRest)
	defer rest.Stop()
	select {
	case <-rest.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	var idle []*line
	for l := range s.all {
		if !l.busy.Load() {
			idle = append(idle, l)
		}
	}
	s.mu.Unlock()
	for _, l := range idle {
		l.conn.Close()
	}
	stop := context.AfterFunc(ctx, s.cut)
	defer stop()
	s.running.Wait()
}

// cut breaks off what is under way.
func (s *lines) cut() {
	s.mu.Lock()
	all := make([]*line, 0, len(s.all))
	for l := range s.all {
		all = append(all, l)
	}
	s.mu.Unlock()
	for _, l := range all {
		abort(l.conn)
		if f := l.far.Load(); f != nil {
			abort(f.conn)
		}
	}
}
