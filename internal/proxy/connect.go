package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/kith-id/kith"
)

const (
	peekTimeout   = 10 * time.Second
	tunnelTimeout = 10 * time.Second
	preface       = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113 3.4
)

// speech is what a program begins to say in a tunnel to a service.
type speech int

const (
	unclear speech = iota // more bytes are needed
	speaksH2
	speaksH1
	speaksTLS
	speaksOther
)

// listenTo tells from the first bytes what a program speaks. It needs the whole
// preface to say HTTP/2, and for the rest as little as tells them apart.
func listenTo(first []byte) speech {
	switch {
	case len(first) == 0:
		return unclear
	case first[0] == 0x16: // TLS record of type handshake; no HTTP method begins so
		return speaksTLS
	case len(first) >= len(preface) && string(first[:len(preface)]) == preface:
		return speaksH2
	case len(first) < len(preface) && string(first) == preface[:len(first)]:
		return unclear
	}
	for _, c := range first[:min(len(first), 32)] {
		if c == ' ' {
			return speaksH1
		}
		if !isToken([]byte{c}) {
			return speaksOther
		}
	}
	if len(first) >= 32 {
		return speaksOther // no method is that long
	}
	return unclear
}

// connect serves CONNECT host:port. To a service it becomes mutual TLS, with the
// protocol the program begins to speak; elsewhere it is the tunnel that was
// asked for.
func (o *outbound) connect(rw http.ResponseWriter, r *http.Request) {
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil || host == "" || port == "" || r.URL.Path != "" {
		answer(rw, r, http.StatusBadRequest, "CONNECT wants host:port")
		return
	}
	o.tunnels.enter()
	defer o.tunnels.leave()
	if !o.isService(host) {
		o.tunnel(rw, r, net.JoinHostPort(host, port))
		return
	}
	service := strings.ToLower(host)
	protocol, err := o.p.cfg.Workload.Find(service)
	if err != nil {
		status, text := o.explain(err)
		answer(rw, r, status, text)
		return
	}
	// Where the directory already says what will be spoken, the connection comes
	// first: then a failure is still an HTTP status, which clients can show.
	var back *tls.Conn
	switch protocol {
	case kith.GRPC:
		back, err = o.dial(r.Context(), service, "h2")
	case kith.TCP:
		back, err = o.dial(r.Context(), service)
	}
	if err != nil {
		status, text := o.explain(err)
		answer(rw, r, status, text)
		return
	}
	conn, err := established(rw)
	if err != nil {
		if back != nil {
			back.Close()
		}
		return
	}
	defer conn.Close()
	o.toService(r.Context(), conn, service, protocol, back)
}

// toService finds out what the program speaks, unless the service is raw TCP,
// where the server may be the one to begin, and relays.
func (o *outbound) toService(ctx context.Context, conn *peekedConn, service string, protocol kith.Protocol, back *tls.Conn) {
	if protocol != kith.TCP {
		said, err := conn.listen()
		if back != nil && said != speaksH2 {
			back.Close()
			back = nil
		}
		switch {
		case err != nil:
			return
		case said == speaksH2 && back == nil:
			back, err = o.dial(ctx, service, "h2")
		case said == speaksH1:
			back, err = o.dial(ctx, service, "http/1.1")
		case said == speaksTLS:
			o.p.log.Warn("a program speaks TLS to a service, where Kith already encrypts", "service", service, "hint", "use http://"+service)
			// The client expects TLS and may show these bytes as "HTTP response to
			// HTTPS client"; there is no better place to say it once 200 is sent.
			conn.say(http.StatusBadGateway, "use http://"+service+": Kith encrypts between the proxies")
			return
		case said == speaksOther:
			conn.say(http.StatusBadGateway, service+" speaks "+string(protocol)+"; for raw TCP use --upstream")
			return
		}
		if err != nil {
			status, text := o.explain(err)
			if said == speaksH1 {
				conn.say(status, text)
			}
			return
		}
	}
	o.p.meter.enter("outbound")
	defer o.p.meter.leave("outbound")
	relay(ctx, o.p.meter.buffers, conn, back)
}

// dial connects to a service and insists on the protocol that will be spoken.
func (o *outbound) dial(ctx context.Context, service string, protos ...string) (*tls.Conn, error) {
	conn, err := o.p.cfg.Workload.Dial(ctx, service, protos...)
	if err != nil {
		return nil, err
	}
	if len(protos) > 0 {
		if err := speaks(conn, service, protos[0]); err != nil {
			return nil, err
		}
	}
	return conn, nil
}

// speaks closes a connection that did not agree on the protocol; HTTP/1.1 is
// what who agrees on nothing speaks.
func speaks(conn *tls.Conn, service, proto string) error {
	if agreed := conn.ConnectionState().NegotiatedProtocol; agreed == proto || agreed == "" && proto != "h2" {
		return nil
	}
	conn.Close()
	return fmt.Errorf("%s does not speak %s", service, proto)
}

// tunnel is CONNECT to a host that is no service: by the proxy that was set
// before, or direct.
func (o *outbound) tunnel(rw http.ResponseWriter, r *http.Request, address string) {
	ctx, cancel := context.WithTimeout(r.Context(), tunnelTimeout)
	defer cancel()
	back, err := o.before.dial(ctx, address)
	if err != nil {
		status, text := o.explain(err)
		answer(rw, r, status, text)
		return
	}
	conn, err := established(rw)
	if err != nil {
		back.Close()
		return
	}
	relay(r.Context(), o.p.meter.buffers, conn, back)
}

// established takes the connection from net/http and answers 200.
func established(rw http.ResponseWriter) (*peekedConn, error) {
	conn, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Time{}) //nolint:errcheck // a closed connection shows in the write
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		conn.Close()
		return nil, err
	}
	return &peekedConn{Conn: conn, r: buffered.Reader}, nil
}

// peekedConn is a connection some of whose bytes are in a reader already.
type peekedConn struct {
	net.Conn

	r *bufio.Reader
}

// Read reads what was peeked first.
func (c *peekedConn) Read(p []byte) (int, error) {
	if c.r.Buffered() > 0 {
		return c.r.Read(p)
	}
	return c.Conn.Read(p)
}

// NetConn is the connection underneath.
func (c *peekedConn) NetConn() net.Conn { return c.Conn }

// CloseWrite ends our half.
func (c *peekedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Conn.Close()
}

// listen peeks until the speech is clear.
func (c *peekedConn) listen() (speech, error) {
	c.SetReadDeadline(time.Now().Add(peekTimeout)) //nolint:errcheck // a closed connection shows in the read
	defer c.SetReadDeadline(time.Time{})           //nolint:errcheck // likewise
	for n := 1; ; n++ {
		first, err := c.r.Peek(max(n, c.r.Buffered()))
		if said := listenTo(first); said != unclear {
			return said, nil
		}
		if err != nil {
			return unclear, err
		}
		n = len(first)
	}
}

// say answers in plain HTTP inside the tunnel, for want of any other place.
func (c *peekedConn) say(status int, text string) {
	c.SetWriteDeadline(time.Now().Add(time.Second)) //nolint:errcheck // a closed connection shows in the write
	body := "kith: " + text + "\n"
	fmt.Fprintf(c.Conn, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(body), body)
	// Closing with bytes unread would be a reset, and could take our words back.
	c.CloseWrite()                                         //nolint:errcheck // the program has gone
	c.SetReadDeadline(time.Now().Add(time.Second))         //nolint:errcheck // likewise
	io.Copy(io.Discard, io.LimitReader(c, maxLocalHeader)) //nolint:errcheck // likewise
}

// dial connects to a host that is no service.
func (b *before) dial(ctx context.Context, address string) (net.Conn, error) {
	via, err := b.proxy(&url.URL{Scheme: "https", Host: address})
	if err != nil {
		return nil, fmt.Errorf("previous proxy: %w", err)
	}
	var dialer net.Dialer
	if via == nil {
		return dialer.DialContext(ctx, "tcp", address)
	}
	if via.Scheme != "http" {
		return nil, fmt.Errorf("previous proxy %s: only http proxies are supported", via.Redacted())
	}
	port := via.Port()
	if port == "" {
		port = "80"
	}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(via.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("previous proxy %s: %w", via.Redacted(), err)
	}
	through, err := askTunnel(ctx, conn, via, address)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("previous proxy %s: %w", via.Redacted(), err)
	}
	return through, nil
}

func askTunnel(ctx context.Context, conn net.Conn, via *url.URL, address string) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)          //nolint:errcheck // a closed connection shows in the write
		defer conn.SetDeadline(time.Time{}) //nolint:errcheck // likewise
	}
	ask := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: make(http.Header)}
	if user := via.User; user != nil {
		password, _ := user.Password()
		ask.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := ask.Write(conn); err != nil {
		return nil, err
	}
	limited := &io.LimitedReader{R: conn, N: 64 << 10}
	reader := bufio.NewReader(limited)
	res, err := http.ReadResponse(reader, ask)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	return &peekedConn{Conn: conn, r: reader}, nil
}
