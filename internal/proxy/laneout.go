package proxy

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"

	"github.com/kith-id/kith"
)

// outLane is the lane of the local HTTP proxy: requests for services go to
// whoever answers for these.
type outLane struct {
	o    *outbound
	pool *pool[kith.Endpoint]
}

// localFacts are what a line of an outLane knows of its connection.
type localFacts struct {
	host    string          // of the last request
	service string          // that it names
	tries   []kith.Endpoint // for the last request
	at      kith.Endpoint   // where it went
}

var schemeHTTP = []byte("http://")

func (o *outLane) takes(h *head) bool {
	authority, path, ok := cutTarget(h.target)
	return ok && len(path) > 0 && path[0] == '/' && bytes.IndexByte(path, '#') < 0 &&
		string(h.method) != http.MethodConnect && !h.grpc && !h.eventStream && o.o.isService(serviceOf(authority)) &&
		!o.o.balanced.has(serviceOf(authority))
}

// cutTarget splits a target in absolute form. The authority of one that names a
// service has nothing but letters, digits, hyphens and a port.
func cutTarget(target []byte) (authority, path []byte, ok bool) {
	rest, ok := bytes.CutPrefix(target, schemeHTTP)
	if !ok {
		return nil, nil, false
	}
	end := bytes.IndexAny(rest, "/?#")
	if end < 0 {
		return nil, nil, false
	}
	for _, c := range rest[:end] {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == ':':
		default:
			return nil, nil, false
		}
	}
	return rest[:end], rest[end:], true
}

func serviceOf(authority []byte) string {
	name, port, _ := bytes.Cut(authority, []byte(":"))
	if bytes.IndexByte(port, ':') >= 0 {
		return ""
	}
	return string(name)
}

func (o *outLane) ask(l *line, out []byte) ([]byte, http.HandlerFunc) {
	k, h := l.known.(*localFacts), &l.head
	if string(h.host) != k.host {
		k.host = string(h.host)
		k.service = strings.ToLower(serviceOf(h.host))
	}
	_, path, _ := cutTarget(h.target)
	out = appendLine(out, methodName(h.method), "", string(path), k.host)
	for i := range h.fields {
		f := &h.fields[i]
		if f.kind == identityField && saysWhoAsked(f.name) {
			continue
		}
		out = forward(out, f, h.chunked)
	}
	return out, nil
}

// saysWhoAsked: what a proxy before us may have said is not for the service.
func saysWhoAsked(name []byte) bool {
	for _, one := range [...]string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if bytes.EqualFold(name, []byte(one)) {
			return true
		}
	}
	return false
}

// connect tries the endpoints of the service; where none is reached, nothing was
// sent.
func (o *outLane) connect(ctx context.Context, l *line, fresh bool) (f *far, err error) {
	k := l.known.(*localFacts)
	if k.tries, err = o.o.p.cfg.Workload.Endpoints(k.tries[:0], k.service); err != nil {
		return nil, err
	}
	for _, k.at = range k.tries {
		if f, err = o.pool.borrow(ctx, k.at, fresh, o.dial(k.at)); err == nil {
			return f, nil
		}
		if ctx.Err() != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
	}
	return nil, err
}

func (o *outLane) dial(at kith.Endpoint) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := at.Dial(ctx, "http/1.1")
		if err != nil {
			return nil, err
		}
		if err := speaks(conn, at.Service(), "http/1.1"); err != nil {
			return nil, err
		}
		return conn, nil
	}
}

func (o *outLane) done(l *line, f *far) { o.pool.give(l.known.(*localFacts).at, f) }

func (o *outLane) drops(kind) bool { return false }

func (o *outLane) fail(rw http.ResponseWriter, r *http.Request, err error) {
	status, text := o.o.explain(err)
	answer(rw, r, status, text)
}

func (o *outLane) handOver(conn net.Conn, read []byte) {
	o.o.queue.put(&resumed{Conn: conn, read: read})
}

// resumed is a connection some of whose bytes were read already.
type resumed struct {
	net.Conn

	read []byte
}

// Read reads what was read first.
func (r *resumed) Read(p []byte) (int, error) {
	if len(r.read) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.read)
	if r.read = r.read[n:]; len(r.read) == 0 {
		r.read = nil
	}
	return n, nil
}

// NetConn is the connection underneath.
func (r *resumed) NetConn() net.Conn { return r.Conn }

// CloseWrite ends our half.
func (r *resumed) CloseWrite() error {
	if half, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return r.Conn.Close()
}
