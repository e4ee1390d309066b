package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// target is one way to the backend.
type target struct {
	name    string
	bytes   string // host:port that leads to swallow
	http    string // host:port that leads to the 1 KiB answers
	request []byte
	secure  *tls.Config // the load itself speaks TLS; nil: plain
	pids    []int       // whose CPU time counts, beside our own if ownToo
	ownToo  bool
}

func (t *target) dial(address string) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil || t.secure == nil {
		return conn, err
	}
	secure := tls.Client(conn, t.secure)
	return secure, secure.Handshake()
}

// cpu is the processor time that counts, so far.
func (t *target) cpu() time.Duration {
	sum := cpuOf(t.pids...)
	if t.ownToo {
		sum += selfCPU()
	}
	return sum
}

// send pushes n bytes over a connection and waits until they are swallowed.
func send(conn net.Conn, n int64, piece []byte) error {
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], uint64(n))
	if _, err := conn.Write(head[:]); err != nil {
		return err
	}
	for left := n; left > 0; {
		wrote, err := conn.Write(piece[:min(left, int64(len(piece)))])
		if err != nil {
			return err
		}
		left -= int64(wrote)
	}
	_, err := io.ReadFull(conn, head[:1])
	return err
}

// transfer sends bytes over one connection; it returns CPU-s per GB and GB/s.
func (t *target) transfer(n int64) (cpu, rate float64, err error) {
	conn, err := t.dial(t.bytes)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	piece := make([]byte, 64<<10)
	if err := send(conn, 1<<20, piece); err != nil {
		return 0, 0, err
	}
	before, began := t.cpu(), time.Now()
	if err := send(conn, n, piece); err != nil {
		return 0, 0, err
	}
	gb := float64(n) / 1e9
	return (t.cpu() - before).Seconds() / gb, gb / time.Since(began).Seconds(), nil
}

// connections makes n connections one after the other, each for one byte; it
// returns CPU-ms each.
func (t *target) connections(n int) (float64, error) {
	before := t.cpu()
	for range n {
		conn, err := t.dial(t.bytes)
		if err != nil {
			return 0, err
		}
		err = send(conn, 1, []byte{0})
		conn.Close()
		if err != nil {
			return 0, err
		}
	}
	return ms(t.cpu()-before) / float64(n), nil
}

// httpConn is an HTTP/1.1 client that costs as little as can be.
type httpConn struct {
	conn    net.Conn
	r       *bufio.Reader
	request []byte
}

func (t *target) open() (*httpConn, error) {
	conn, err := t.dial(t.http)
	if err != nil {
		return nil, err
	}
	return &httpConn{conn: conn, r: bufio.NewReaderSize(conn, 8<<10), request: t.request}, nil
}

// ask sends the request and reads the whole answer.
func (c *httpConn) ask() error {
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	length, status := -1, ""
	for first := true; ; first = false {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first {
			status = string(line[9:min(12, len(line))])
		}
		if len(line) <= 2 {
			break
		}
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if status != strconv.Itoa(http.StatusOK) || length != bodySize {
		return fmt.Errorf("answer %s with a body of %d bytes", status, length)
	}
	_, err := c.r.Discard(length)
	return err
}

// requests keeps so many connections busy for a while; it returns CPU-µs per
// request and requests a second.
func (t *target) requests(ctx context.Context, conns int, d time.Duration) (cpu, rate float64, err error) {
	all, err := t.openAll(conns)
	if err != nil {
		return 0, 0, err
	}
	var done atomic.Int64
	var failed atomic.Pointer[error]
	before, began := t.cpu(), time.Now()
	var running sync.WaitGroup
	for _, c := range all {
		running.Go(func() {
			for time.Since(began) < d && ctx.Err() == nil {
				if err := c.ask(); err != nil {
					failed.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	running.Wait()
	spent, took := t.cpu()-before, time.Since(began)
	for _, c := range all {
		c.conn.Close()
	}
	if err := failed.Load(); err != nil {
		return 0, 0, *err
	}
	n := float64(done.Load())
	return float64(spent.Microseconds()) / n, n / took.Seconds(), nil
}

// openAll opens connections and sends one request on each, so that what is
// made for a connection is not counted for requests.
func (t *target) openAll(n int) ([]*httpConn, error) {
	all := make([]*httpConn, n)
	for i := range all {
		c, err := t.open()
		if err != nil {
			return nil, err
		}
		if err := c.ask(); err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		all[i] = c
	}
	return all, nil
}

// paced sends requests at a fixed rate over so many connections and returns the
// time each took, in ms.
func (t *target) paced(ctx context.Context, conns, rate int, d time.Duration) ([]float64, error) {
	all, err := t.openAll(conns)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var took []float64
	errs := make(chan error, conns)
	began, gap := time.Now(), time.Second*time.Duration(conns)/time.Duration(rate)
	for i, c := range all {
		go func() {
			defer c.conn.Close()
			var mine []float64
			for next := began.Add(gap * time.Duration(i) / time.Duration(conns)); next.Sub(began) < d && ctx.Err() == nil; next = next.Add(gap) {
				time.Sleep(time.Until(next))
				at := time.Now()
				if err := c.ask(); err != nil {
					errs <- err
					return
				}
				mine = append(mine, ms(time.Since(at)))
			}
			mu.Lock()
			took = append(took, mine...)
			mu.Unlock()
			errs <- nil
		}()
	}
	for range all {
		if err := <-errs; err != nil {
			return nil, err
		}
	}
	return took, nil
}
