package kith

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/spiffe"
)

const (
	maxConnections   = 8192             // accepted at once by one listener
	maxOfOnePeer     = 2048             // of those with one identity, so that the others find room
	maxHandshakes    = 512              // under way at once in one listener
	longestAcceptGap = time.Second      // between two attempts after an accept error
	keepAlivePeriod  = 30 * time.Second // so that a vanished peer frees its slot
)

// Listener wraps a plain listener: its Accept gives *tls.Conn values after the
// handshake, whose peers have proved an identity. protos are the ALPN protocols
// to agree on; none for raw TCP. It decides nothing: put the connections into a
// server with [Workload.ConnContext] and [Workload.Handler], or ask
// [Workload.Hold] for each.
//
// Handshakes run beside each other and have ten seconds; connections over the
// limit are closed at once. Closing the listener closes inner, and every
// connection whose handshake is under way.
func (w *Workload) Listener(inner net.Listener, protos ...string) net.Listener {
	return w.secure(inner, spiffe.ServerTLS(w, w.cfg.Now, nil), protos)
}

// ProofListener is Listener for what a load balancer sends on that has ended the
// callers' mutual TLS: TLS with our SVID, and no certificate asked for that must
// come. Serve its connections with a handler of [Workload.ProofHandler] and no
// other: who calls is in each request.
func (w *Workload) ProofListener(inner net.Listener, protos ...string) net.Listener {
	return w.secure(inner, spiffe.ServerTLSOptional(w, w.cfg.Now), protos)
}

func (w *Workload) secure(inner net.Listener, config *tls.Config, protos []string) net.Listener {
	config.NextProtos = protos
	ctx, cancel := context.WithCancel(context.Background())
	l := &listener{
		Listener: inner, w: w, config: config, ready: make(chan *tls.Conn),
		ctx: ctx, cancel: cancel, handshakes: make(chan struct{}, maxHandshakes),
	}
	l.running.Go(l.acceptAll)
	return l
}

type listener struct {
	net.Listener

	w      *Workload
	config *tls.Config
	ready  chan *tls.Conn

	ctx     context.Context // ends at Close; it belongs to the listener's own goroutines
	cancel  context.CancelFunc
	running sync.WaitGroup

	handshakes chan struct{} // one token per handshake under way
	open       atomic.Int64
}

// Accept returns the next connection with a proven peer.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.ready:
		return conn, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close stops accepting and waits for the handshakes under way to end.
func (l *listener) Close() error {
	l.cancel()
	err := l.Listener.Close()
	l.running.Wait()
	return err
}

// acceptAll takes connections until Close. An accept error, as with no file
// descriptors left, is waited out, longer each time.
func (l *listener) acceptAll() {
	var gap time.Duration
	for l.ctx.Err() == nil {
		conn, err := l.Listener.Accept()
		if err != nil {
			if l.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			gap = min(max(2*gap, 5*time.Millisecond), longestAcceptGap)
			l.w.cfg.Log.Warn("accept", "address", l.Addr().String(), "error", err, "again_in", gap)
			sleep(l.ctx, gap)
			continue
		}
		gap = 0
		l.admit(conn)
	}
}

func (l *listener) admit(conn net.Conn) {
	if l.open.Load() >= maxConnections {
		conn.Close()
		return
	}
	select {
	case l.handshakes <- struct{}{}:
	default:
		conn.Close() // a flood of strangers: who is in stays in
		return
	}
	if c, ok := conn.(*net.TCPConn); ok {
		c.SetKeepAlivePeriod(keepAlivePeriod) //nolint:errcheck // a closed connection shows at the handshake
	}
	l.open.Add(1)
	tracked := &acceptedConn{Conn: newWire(conn, l.w.wires), gone: func(c *acceptedConn) {
		l.open.Add(-1)
		l.w.accepts.remove(c)
	}}
	l.running.Go(func() {
		defer func() { <-l.handshakes }()
		l.handshake(tracked)
	})
}

func (l *listener) handshake(tracked *acceptedConn) {
	ctx, cancel := context.WithTimeout(l.ctx, handshakeTimeout)
	defer cancel()
	conn, err := l.w.prove(ctx, tracked, l.config)
	if err != nil {
		return
	}
	select {
	case l.ready <- conn:
	case <-l.ctx.Done():
		conn.Close()
	}
}

// prove does the handshake of an accepted connection. Its peer is verified again
// at each change of bundle from then on; after an error it is closed.
func (w *Workload) prove(ctx context.Context, tracked *acceptedConn, config *tls.Config) (*tls.Conn, error) {
	conn := tls.Server(tracked, config)
	known := w.identity.Load()
	if err := conn.HandshakeContext(ctx); err != nil {
		w.cfg.Log.LogAttrs(ctx, w.refusals.level(err, known, w.cfg.Now()), "handshake failed",
			slog.String("remote", tracked.RemoteAddr().String()), slog.String("error", clip(err.Error(), maxReportText)))
		tracked.Close()
		return nil, err
	}
	if config.ClientAuth == tls.RequestClientCert && len(conn.ConnectionState().PeerCertificates) == 0 {
		return conn, nil // of a ProofListener: there is nobody to verify again
	}
	if err := w.accepts.track(w, tracked, conn, known); err != nil {
		return nil, err
	}
	return conn, nil
}

// offTime lets one handshake a minute be heard of that failed by the time, of the
// peer's certificate or of our own: a person is to know that a clock is off, and
// strangers are not to fill the log.
type offTime struct{ next atomic.Int64 } // Unix seconds

func (o *offTime) level(err error, own *identity, now time.Time) slog.Level {
	var invalid x509.CertificateInvalidError
	ended := own != nil && !own.expires.IsZero() && !now.Before(own.expires)
	if !ended && (!errors.As(err, &invalid) || invalid.Reason != x509.Expired) {
		return slog.LevelDebug
	}
	if next := o.next.Load(); now.Unix() < next && next-now.Unix() <= 60 || !o.next.CompareAndSwap(next, now.Unix()+60) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// track has the peer of a connection whose handshake is done verified again at
// each change of bundle. known is the identity of before the handshake.
func (c *conns) track(w *Workload, tracked *acceptedConn, conn *tls.Conn, known *identity) error {
	tracked.chain, tracked.met = conn.ConnectionState().PeerCertificates, w.cfg.Now()
	if !c.add(tracked) {
		tracked.Close()
		return errCrowded
	}
	if w.identity.Load() != known { // the bundle may have changed before it was added
		c.check(w, tracked)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// acceptedConn is the raw connection under an accepted or dialled TLS connection.
type acceptedConn struct {
	net.Conn

	once sync.Once
	gone func(*acceptedConn)

	chain []*x509.Certificate // set before it is added to conns
	peer  spiffe.ID           // set by add
	met   time.Time           // when the chain was verified
}

// Close closes the connection and frees its slot.
func (c *acceptedConn) Close() error {
	c.once.Do(func() { c.gone(c) })
	return c.Conn.Close()
}

// NetConn is the connection underneath.
func (c *acceptedConn) NetConn() net.Conn { return c.Conn }

// CloseWrite ends our half, so that tls.Conn can pass a half-close on.
func (c *acceptedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// conns are the accepted connections of all listeners, or the dialled ones.
type conns struct {
	most int // of one peer; 0: any number

	mu  sync.Mutex
	all map[*acceptedConn]struct{} // guarded by mu
	of  map[spiffe.ID]int          // how many each peer has; guarded by mu
}

func (c *conns) init(most int) {
	c.most, c.all, c.of = most, make(map[*acceptedConn]struct{}), make(map[spiffe.ID]int)
}

// errCrowded says that a peer has as many connections as one may have.
var errCrowded = errors.New("peer has enough connections")

// add reports whether there is room for one more of this peer.
func (c *conns) add(conn *acceptedConn) bool {
	var err error
	if conn.peer, err = spiffe.CertificateID(conn.chain[0]); err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.most > 0 && c.of[conn.peer] >= c.most {
		return false
	}
	c.all[conn] = struct{}{}
	c.of[conn.peer]++
	return true
}

func (c *conns) remove(conn *acceptedConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, here := c.all[conn]; !here {
		return
	}
	delete(c.all, conn)
	if c.of[conn.peer]--; c.of[conn.peer] <= 0 {
		delete(c.of, conn.peer)
	}
}

// closeAll closes every accepted connection.
func (c *conns) closeAll() {
	c.mu.Lock()
	all := slices.Collect(maps.Keys(c.all))
	c.mu.Unlock()
	for _, conn := range all {
		conn.Close()
	}
}

// verifyAgain closes the connections whose peer the present bundles no longer
// vouch for. The time is that of the handshake: a leaf that has merely expired
// since is replaced by its owner and no reason to break a request.
func (c *conns) verifyAgain(w *Workload) {
	c.mu.Lock()
	all := make([]*acceptedConn, 0, len(c.all))
	for conn := range c.all {
		all = append(all, conn)
	}
	c.mu.Unlock()
	for _, conn := range all {
		c.check(w, conn)
	}
}

func (c *conns) check(w *Workload, conn *acceptedConn) {
	if own := w.identity.Load(); own != nil && own.expires.IsZero() {
		conn.Close() // made while the identity was withdrawn
		return
	}
	if _, err := spiffe.Verify(conn.chain, w.Bundle, conn.met); err != nil {
		w.cfg.Log.Warn("peer no longer trusted", "remote", conn.RemoteAddr().String(), "error", err)
		conn.Close()
	}
}
