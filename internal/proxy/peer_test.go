package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/proxy/proxytest"
	"github.com/kith-id/kith/spiffe"
)

// peer is a caller with an identity who writes bytes by hand.
type peer struct {
	t    *testing.T
	conn *tls.Conn
	r    *bufio.Reader
}

type reply struct {
	status int
	head   http.Header
	body   string
}

func peerTLS(h *house, as string, protos ...string) *tls.Config {
	config := spiffe.ClientTLS(h.agent.CA.Source("/dev/"+as), time.Now, func(spiffe.ID) error { return nil })
	config.NextProtos = protos
	return config
}

func dialPeer(t *testing.T, h *house, as, addr string, protos ...string) *peer {
	t.Helper()
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, peerTLS(h, as, protos...))
	t.Cleanup(func() { raw.Close() })
	conn.SetDeadline(time.Now().Add(proxytest.Patience))
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return &peer{t, conn, bufio.NewReader(conn)}
}

func (p *peer) send(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.conn, text); err != nil {
		p.t.Fatal(err)
	}
}

// read reads one answer; status 0 means that the connection was closed.
func (p *peer) read() reply {
	p.t.Helper()
	res, err := http.ReadResponse(p.r, nil)
	if err != nil {
		return reply{}
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(body)}
}

func (p *peer) ask(text string) reply {
	p.t.Helper()
	p.send(text)
	return p.read()
}

// h2Client is a caller with an identity that speaks HTTP/2.
func h2Client(t *testing.T, h *house, as, addr string) *http.Client {
	t.Helper()
	transport := &http.Transport{
		ForceAttemptHTTP2: true,
		DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&tls.Dialer{Config: peerTLS(h, as, "h2")}).DialContext(ctx, network, addr)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: proxytest.Patience}
}
