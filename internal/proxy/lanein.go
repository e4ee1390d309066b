package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/spiffe"
)

// inLane is the lane of an exposure: requests are decided and go to the
// application.
type inLane struct {
	in   *inbound
	pool *pool[struct{}]
}

// callerFacts are what a line of an inLane knows of its connection.
type callerFacts struct {
	peer   *kith.Peer
	remote string
	port   uint16 // the application's, as rules name it
	host   string // of the last request
	own    spiffe.ID
	vouch  string // the fields that say who calls, when we are own
}

func (a *inLane) facts(conn *tls.Conn) (*callerFacts, error) {
	peer, err := a.in.p.cfg.Workload.PeerOn(conn)
	if err != nil {
		return nil, err
	}
	c := &callerFacts{peer: peer, port: a.in.e.Port}
	c.remote, _, _ = net.SplitHostPort(conn.RemoteAddr().String())
	if local, ok := conn.LocalAddr().(*net.TCPAddr); ok && c.port == 0 {
		c.port = uint16(local.Port)
	}
	return c, nil
}

func (a *inLane) takes(h *head) bool {
	return h.target[0] == '/' && string(h.method) != http.MethodConnect && !h.grpc && !h.eventStream &&
		a.in.p.cfg.Workload.Protocol() != kith.GRPC && len(h.host) > 0 && httpguts.ValidHostHeader(string(h.host))
}

// ask decides. What is forwarded is the path that was decided, and the fields of
// the caller less those by which it could say who it is.
func (a *inLane) ask(l *line, out []byte) ([]byte, http.HandlerFunc) {
	c, h, w := l.known.(*callerFacts), &l.head, a.in.p.cfg.Workload
	if string(h.host) != c.host {
		c.host = string(h.host)
	}
	target := string(h.target)
	path := kith.PathOf(target)
	method := methodName(h.method)
	d := w.Decide(c.peer, kith.Request{
		Protocol: kith.HTTP, Method: method, Path: path, Host: c.host, Port: c.port,
		Query: strings.TrimPrefix(target[len(path):], "?"), Headers: h,
	})
	h.closes = h.closes || w.Outlived(c.peer)
	if !d.Allowed {
		return nil, func(rw http.ResponseWriter, r *http.Request) { kith.Deny(rw, r, d) }
	}
	out = appendLine(out, method, d.Path, target[len(path):], c.host)
	for i := range h.fields {
		if f := &h.fields[i]; f.kind != identityField && f.kind != decisionField {
			out = forward(out, f, h.chunked)
		}
	}
	if own := w.ID(); own != c.own {
		c.own = own
		c.vouch = xfcc + ": " + vouchFor(c.peer, own) + "\r\nX-Forwarded-Proto: https\r\n"
		if c.remote != "" {
			c.vouch += "X-Forwarded-For: " + c.remote + "\r\n"
		}
	}
	return append(out, c.vouch...), nil
}

func (a *inLane) connect(ctx context.Context, _ *line, fresh bool) (*far, error) {
	return a.pool.borrow(ctx, struct{}{}, fresh, a.in.app.dial)
}

func (a *inLane) done(_ *line, f *far) { a.pool.give(struct{}{}, f) }

func (a *inLane) drops(k kind) bool { return k == decisionField }

func (a *inLane) fail(rw http.ResponseWriter, r *http.Request, err error) {
	a.in.app.explain(rw, r, err)
}

func (a *inLane) handOver(conn net.Conn, read []byte) {
	a.in.queue.put(strictly(conn.(*tls.Conn), read))
}

// appendLine appends the request line and the host.
func appendLine(out []byte, method, path, query, host string) []byte {
	out = append(out, method...)
	out = append(out, ' ')
	out = append(out, path...)
	out = append(out, query...)
	out = append(out, " HTTP/1.1\r\nHost: "...)
	out = append(out, host...)
	return append(out, "\r\n"...)
}

// forward appends a field of a request as the next hop gets it, if it does.
func forward(out []byte, f *field, chunked bool) []byte {
	value := f.value
	switch f.kind {
	case hostField, lengthField, encodingField, connectionField, hopField, upgradeField, expectField:
		return out
	case teField:
		if !hasToken(value, "trailers") {
			return out
		}
		value = []byte("trailers")
	case trailerField:
		if value = []byte(trailing(value)); !chunked || len(value) == 0 {
			return out
		}
	}
	out = append(out, f.name...)
	out = append(out, ": "...)
	out = append(out, value...)
	return append(out, "\r\n"...)
}
