package kith

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/spiffe"
)

const (
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 10 * time.Second
	idleTimeout      = 90 * time.Second
	maxAttempts      = 3               // endpoints tried for one call
	outlierRest      = 5 * time.Second // how long an endpoint that could not be reached is tried last
	maxResponseHead  = 256 << 10
)

// caller is the client half: pooled transports and the health of endpoints.
type caller struct {
	w    *Workload
	h2   *http.Transport // HTTP/2, or HTTP/1.1 where the other side has no h2
	h1   *http.Transport // for upgrades, which HTTP/2 does not have
	turn atomic.Uint64

	mu      sync.Mutex
	resting map[string]time.Time // address -> when it is asked first again; guarded by mu
}

func (c *caller) init(w *Workload) {
	c.w = w
	c.resting = make(map[string]time.Time)
	c.h2, c.h1 = c.transport("h2", "http/1.1"), c.transport("http/1.1")
}

func (c *caller) transport(protos ...string) *http.Transport {
	t := &http.Transport{
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			service, address, err := parseKey(addr)
			if err != nil {
				return nil, &dialError{err}
			}
			return c.dialEndpoint(ctx, service, address, protos)
		},
		ForceAttemptHTTP2:      protos[0] == "h2",
		DisableCompression:     true, // bodies pass as they are
		MaxIdleConns:           1024,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        idleTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxResponseHead,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	return t
}

func (c *caller) closeIdle() {
	c.h2.CloseIdleConnections()
	c.h1.CloseIdleConnections()
}

func (c *caller) close() { c.closeIdle() }

// Client is an HTTP client whose host names are names of services:
// Get("http://orders/v1/orders").
func (w *Workload) Client() *http.Client { return &http.Client{Transport: w.Transport()} }

// Transport is the round tripper behind Client, for programs that bring their
// own http.Client or reverse proxy. A request goes to another endpoint only if
// nothing of it was sent. Errors are or wrap [UnknownServiceError],
// [NoEndpointError] and [IdentityError] where these are the cause.
func (w *Workload) Transport() http.RoundTripper { return transport{w: w} }

// TransportHTTP1 is Transport without HTTP/2, for forwarding what came as
// HTTP/1.1: it costs less than a change of protocol.
func (w *Workload) TransportHTTP1() http.RoundTripper { return transport{w: w, h1: true} }

type transport struct {
	w  *Workload
	h1 bool
}

// RoundTrip sends the request to an endpoint of the service its URL names.
func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	body := &heldBody{body: req.Body}
	res, err := t.roundTrip(req, body)
	body.settle(err != nil)
	return res, err
}

func (t transport) roundTrip(req *http.Request, body *heldBody) (*http.Response, error) {
	if req.URL == nil || req.URL.Scheme != "http" {
		return nil, errors.New("a service is called as http://<service>/…; what leaves the process is mutual TLS")
	}
	c := &t.w.calls
	dest, err := t.w.directory.Load().find(strings.ToLower(req.URL.Hostname()))
	if err != nil {
		return nil, err
	}
	pool := c.h2
	if t.h1 || req.Header.Get("Upgrade") != "" {
		pool = c.h1
	}
	var failed error
	for _, address := range c.order(dest) {
		out := req.WithContext(req.Context())
		out.URL = keyed(req.URL, t.w.key(dest, address))
		if out.Host == "" {
			out.Host = req.URL.Host
		}
		if req.Body != nil && req.Body != http.NoBody {
			out.Body = body
		}
		res, err := pool.RoundTrip(out)
		var dial *dialError
		if err == nil || !errors.As(err, &dial) || body.touched() || req.Context().Err() != nil {
			return res, err
		}
		failed = err
	}
	return nil, failed
}

// keyed is the URL with the pool key for a host. It is a copy: a round tripper
// must leave the caller's request alone.
func keyed(u *url.URL, key string) *url.URL {
	out := *u
	out.Scheme, out.Host, out.User = "https", key, nil
	return &out
}

// key names a pooled connection: by endpoint, by service, by the identities
// that may answer and by our own leaf. A change of any of them makes requests
// take a new connection, while those on the old one finish.
func (w *Workload) key(dest *destination, address string) string {
	return hex.EncodeToString([]byte(address)) + "." + dest.name + "." + dest.generation + "." + w.epoch()
}

// epoch names our own leaf.
func (w *Workload) epoch() string {
	if current := w.identity.Load(); current != nil {
		return current.epoch
	}
	return "0"
}

func parseKey(addr string) (service, address string, err error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", "", err
	}
	parts := strings.Split(host, ".")
	if len(parts) != 4 {
		return "", "", fmt.Errorf("connection key %q", host)
	}
	raw, err := hex.DecodeString(parts[0])
	return parts[1], string(raw), err
}

// Dial opens a mutual TLS connection to an endpoint of the service and returns
// it after the handshake, when the other side has proved an identity that may
// answer for it. protos are the ALPN protocols to offer; none for raw TCP.
func (w *Workload) Dial(ctx context.Context, service string, protos ...string) (*tls.Conn, error) {
	dest, err := w.directory.Load().find(service)
	if err != nil {
		return nil, err
	}
	for _, address := range w.calls.order(dest) {
		conn, failed := w.calls.dialEndpoint(ctx, service, address, protos)
		if failed == nil {
			return conn, nil
		}
		if err = failed; ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// order is the endpoints to try: from the next one in turn, those that failed a
// moment ago last, at most maxAttempts.
func (c *caller) order(dest *destination) []string {
	n := len(dest.endpoints)
	if n == 1 {
		return dest.endpoints
	}
	start := int(c.turn.Add(1) % uint64(n))
	now := c.w.cfg.Now()
	var well, resting []string
	c.mu.Lock()
	for i := range n {
		address := dest.endpoints[(start+i)%n]
		if until, ok := c.resting[address]; ok && now.Before(until) {
			resting = append(resting, address)
		} else {
			well = append(well, address)
		}
		if len(well) == maxAttempts {
			break
		}
	}
	c.mu.Unlock()
	tries := append(well, resting...)
	return tries[:min(len(tries), maxAttempts)]
}

func (c *caller) rest(address string, reached bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if reached {
		delete(c.resting, address)
		return
	}
	if len(c.resting) >= maxEndpoints {
		clear(c.resting)
	}
	c.resting[address] = c.w.cfg.Now().Add(outlierRest)
}

// dialError is a failure before anything of a request was sent.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

func (c *caller) dialEndpoint(ctx context.Context, service, address string, protos []string) (*tls.Conn, error) {
	dest, err := c.w.directory.Load().find(service)
	if err != nil {
		return nil, &dialError{err}
	}
	conn, err := c.handshake(ctx, dest.expects(address), address, protos)
	if err != nil && ctx.Err() != nil {
		return nil, &dialError{ctx.Err()} // the caller gave up; that says nothing about the endpoint
	}
	c.rest(address, err == nil)
	if err != nil {
		return nil, &dialError{fmt.Errorf("connect to %s at %s: %w", service, address, err)}
	}
	return conn, nil
}

func (c *caller) handshake(ctx context.Context, expect func(spiffe.ID) error, address string, protos []string) (*tls.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	raw, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	config := spiffe.ClientTLS(c.w, c.w.cfg.Now, expect)
	config.NextProtos = protos
	limit, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	return c.w.meet(limit, raw, config)
}

// meet does the handshake of a dialled connection; prove is its other half.
func (w *Workload) meet(ctx context.Context, raw net.Conn, config *tls.Config) (*tls.Conn, error) {
	tracked := &acceptedConn{Conn: newWire(raw, w.wires), gone: w.dials.remove}
	conn := tls.Client(tracked, config)
	known := w.identity.Load()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, ignoreClosed(tracked.Close()))
	}
	return conn, w.dials.track(w, tracked, conn, known)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// heldBody keeps a body open over failed attempts to connect, so that it can go
// to the next endpoint, and knows whether any of it was read.
type heldBody struct {
	body io.ReadCloser

	mu                  sync.Mutex
	read, asked, closes bool // guarded by mu: was read, was asked to close, may close
}

// Read reads the body; from now on it belongs to this attempt.
func (b *heldBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.read, b.closes = true, true
	b.mu.Unlock()
	return b.body.Read(p)
}

// Close closes the body once an attempt has got through or begun to read it.
func (b *heldBody) Close() error {
	b.mu.Lock()
	b.asked = true
	closes := b.closes
	b.mu.Unlock()
	if !closes {
		return nil
	}
	return b.body.Close()
}

func (b *heldBody) touched() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read
}

// settle ends the holding: there will be no further attempt. A failed one, or
// an attempt that has closed without reading, closes the body now.
func (b *heldBody) settle(failed bool) {
	b.mu.Lock()
	closes := failed || b.asked && !b.closes
	b.closes = true
	b.mu.Unlock()
	if closes && b.body != nil {
		b.body.Close()
	}
}
