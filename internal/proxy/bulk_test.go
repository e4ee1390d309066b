package proxy

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/proxy/proxytest"
	"github.com/kith-id/kith/spiffe"
)

// Whatever the sizes of records and writes, raw bytes arrive in both directions
// at once, and none is waited for that is already here.
func TestOddPiecesOfRawBytes(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	_, addr := h.expose("db", "tcp", listenTCP(t, func(conn net.Conn) { io.Copy(conn, conn) }))
	h.agent.Service("web", "http")
	p, _ := h.run("web", func(c *Config) { c.Upstreams = []Upstream{{Service: "db", Listen: "127.0.0.1:0"}} })
	h.agent.Rules(proxytest.Allow("db", "web", "db", "tcp"))
	plain, err := net.Dial("tcp", p.UpstreamAddrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for name, conn := range map[string]net.Conn{"through both": plain, "records of one's own": dialPeer(t, h, "web", addr).conn} {
		var sending sync.WaitGroup
		sent, got := sha256.New(), sha256.New()
		const pieces = 300
		sizes := make([]int, pieces)
		total := int64(0)
		for i := range sizes {
			sizes[i] = []int{1, 100, 1000, 5000, 16384, 16385, 40_000}[rand.IntN(7)]
			total += int64(sizes[i])
		}
		sending.Go(func() {
			for i, size := range sizes {
				piece := make([]byte, size)
				for j := range piece {
					piece[j] = byte(i + j)
				}
				sent.Write(piece)
				if _, err := conn.Write(piece); err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
		if n, err := io.CopyN(got, conn, total); err != nil {
			t.Fatalf("%s: %d of %d bytes, %v", name, n, total, err)
		}
		sending.Wait()
		if a, b := fmt.Sprintf("%x", sent.Sum(nil)), fmt.Sprintf("%x", got.Sum(nil)); a != b {
			t.Errorf("%s: other bytes came back", name)
		}
	}
}

// lumps is a connection whose writes go out together.
type lumps struct {
	net.Conn

	held []byte
	is   bool
}

func (l *lumps) Write(p []byte) (int, error) {
	if !l.is {
		return l.Conn.Write(p)
	}
	l.held = append(l.held, p...)
	return len(p), nil
}

// An intake never waits for what TLS has already read: records that arrive at once,
// and do not fill its piece evenly, come out whole although nothing follows.
func TestIntakeTakesWholeRecords(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	const records, size = 5, 10_000
	config := spiffe.ServerTLS(h.agent.CA.Source("/dev/db"), time.Now, nil)
	config.DynamicRecordSizingDisabled = true
	addr := listenTCP(t, func(raw net.Conn) {
		below := &lumps{Conn: raw}
		conn := tls.Server(below, config)
		if conn.Handshake() != nil {
			return
		}
		below.is = true
		for range records {
			conn.Write(make([]byte, size))
		}
		raw.Write(below.held)
		io.Copy(io.Discard, raw)
	})
	h.agent.Service("db", "tcp", addr)
	w := h.open("web")
	h.agent.Settled()
	conn, err := w.Dial(soon(t), "db")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	deadline := time.Now().Add(proxytest.Patience)
	conn.SetReadDeadline(deadline)
	in, got := newIntake(conn, newSheets()), 0
	for got < records*size {
		piece, err := in.next()
		if err != nil {
			t.Fatalf("%d bytes, then %v", got, err)
		}
		got += len(piece)
		in.done()
	}
	if time.Now().After(deadline) {
		t.Error("it waited, and only then gave what it had")
	}
}

// Long bodies of known length, up and down, with requests behind them on the same
// connection.
func TestLongBodiesOfKnownLength(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.expose("orders", "http", serve(t, func(rw http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		if err != nil {
			t.Error(err)
		}
		var down int
		fmt.Sscanf(r.URL.Query().Get("down"), "%d", &down)
		rw.Header().Set("Content-Length", fmt.Sprint(down))
		rw.Header().Set("X-Up", fmt.Sprintf("%d %x", n, sum.Sum(nil)))
		io.CopyN(rw, zeros{}, int64(down))
	}))
	_, client := h.outbound("web")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET,POST /{**}"))
	for _, size := range []int{0, 1, 5000, sheet, longBody - 1, longBody + 1, 200_000, 3 << 20} {
		want := fmt.Sprintf("%d %x", size, sha256.Sum256(make([]byte, size)))
		req, _ := http.NewRequestWithContext(soon(t), http.MethodPost, fmt.Sprintf("http://orders/?down=%d", size), io.LimitReader(zeros{}, int64(size)))
		req.ContentLength = int64(size)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil || n != int64(size) || res.Header.Get("X-Up") != want {
			t.Errorf("%d bytes: got %d, %v; the application %q, want %q", size, n, err, res.Header.Get("X-Up"), want)
		}
	}
}
