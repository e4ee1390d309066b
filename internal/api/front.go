package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/kith-id/kith/spiffe"
)

const (
	handshakeTime   = 10 * time.Second
	handshakesTotal = 4096 // half-open TLS connections, and
	handshakesEach  = 1024 // of those, from one address: many nodes behind one
)

// front accepts TLS connections, shakes hands under a limit and hands each to
// one of two gRPC servers: peers without a certificate meet small limits only.
type front struct {
	tls       *tls.Config
	log       *slog.Logger
	anonymous *handoff
	known     *handoff
	seats     seats // of known peers
	// trusts says who of those with a certificate is met as known; nil: all.
	trusts func(tls.ConnectionState) bool

	mu   sync.Mutex
	open map[netip.Addr]int // handshakes under way, guarded by mu
	all  int                // their sum, guarded by mu
}

func newFront(cfg *tls.Config, log *slog.Logger, addr net.Addr) *front {
	return &front{
		tls:       cfg,
		log:       log,
		anonymous: newHandoff(addr),
		known:     newHandoff(addr),
		open:      make(map[netip.Addr]int),
	}
}

// run accepts until the listener is closed and waits for the handshakes under
// way; accept errors (too many open files) back off instead of ending it.
func (f *front) run(ctx context.Context, l net.Listener) error {
	var shaking sync.WaitGroup
	defer shaking.Wait()
	pause := 5 * time.Millisecond
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			f.log.Warn("accept failed", "error", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		addr := addrOf(conn.RemoteAddr())
		if !f.enter(addr) {
			conn.Close()
			continue
		}
		shaking.Go(func() {
			defer f.leave(addr)
			f.shake(ctx, conn)
		})
	}
}

// serve lets both servers serve what front accepts on l, which it closes, until
// ctx ends.
func (f *front) serve(ctx context.Context, l net.Listener, anonymous, known *grpc.Server) error {
	var serving sync.WaitGroup
	serving.Go(func() { _ = anonymous.Serve(f.anonymous) })
	serving.Go(func() { _ = known.Serve(f.known) })
	frontCtx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- f.run(frontCtx, l) }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
		ended <- nil
	}
	// The listener goes first, so that nobody gets in while the others leave;
	// streams never end by themselves, so the drain is a short courtesy to calls.
	l.Close()
	cancel()
	stopServers(drainTime, anonymous, known)
	<-ended
	serving.Wait()
	return err
}

func (f *front) shake(ctx context.Context, conn net.Conn) {
	limit, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	seated := &seatedConn{Conn: conn}
	secure := tls.Server(seated, f.tls)
	if err := secure.HandshakeContext(limit); err != nil {
		f.log.Debug("handshake failed", "remote", conn.RemoteAddr().String(), "error", err)
		conn.Close()
		return
	}
	to := f.anonymous
	if state := secure.ConnectionState(); len(state.PeerCertificates) > 0 && (f.trusts == nil || f.trusts(state)) {
		to = f.known
		id, err := spiffe.PeerID(state)
		leave, ok := f.seats.take(id)
		if err != nil || !ok {
			f.log.Debug("connection refused: this peer has enough of them", "spiffe_id", id.String(), "remote", conn.RemoteAddr().String())
			if ok {
				leave()
			}
			secure.Close()
			return
		}
		seated.sit(leave)
	}
	if !to.give(limit, secure) {
		secure.Close()
	}
}

func (f *front) enter(addr netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all >= handshakesTotal || f.open[addr] >= handshakesEach {
		return false
	}
	f.open[addr]++
	f.all++
	return true
}

func (f *front) leave(addr netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all--
	if f.open[addr]--; f.open[addr] == 0 {
		delete(f.open, addr)
	}
}

func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// handoff is a net.Listener that is given its connections.
type handoff struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandoff(addr net.Addr) *handoff {
	return &handoff{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (h *handoff) give(ctx context.Context, c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.closed:
		return false
	case <-ctx.Done():
		return false
	}
}

// Accept waits for the next connection.
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close makes Accept and give return.
func (h *handoff) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr is the address of the real listener.
func (h *handoff) Addr() net.Addr { return h.addr }

// shaken tells gRPC about a connection whose handshake front has done.
type shaken struct{}

// ServerHandshake takes over the state of the finished handshake.
func (shaken) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secure, ok := c.(*tls.Conn)
	if !ok || !secure.ConnectionState().HandshakeComplete {
		return nil, nil, fmt.Errorf("connection of type %T has no finished handshake", c)
	}
	return c, credentials.TLSInfo{
		State:          secure.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// ClientHandshake is not for this side.
func (shaken) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server credentials cannot dial")
}

// Info names the protocol.
func (shaken) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone returns the same value: it has no state.
func (s shaken) Clone() credentials.TransportCredentials { return s }

// OverrideServerName is of no use to a server.
func (shaken) OverrideServerName(string) error { return nil }
