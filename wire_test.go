package kith

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// pairOfWires is a connection over loopback, its near end a wire.
func pairOfWires(t *testing.T) (near *wire, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); far.Close() })
	deadline := time.Now().Add(20 * time.Second)
	for _, c := range []net.Conn{conn, far} {
		if err := c.SetDeadline(deadline); err != nil {
			t.Fatal(err)
		}
	}
	near, ok := newWire(conn, newWirePool()).(*wire)
	if !ok {
		t.Fatal("a TCP connection has no file descriptor")
	}
	return near, far
}

func record(size int, fill byte) []byte {
	text := bytes.Repeat([]byte{fill}, recordHead+size)
	binary.BigEndian.PutUint16(text[3:], uint16(size))
	return text
}

// However the bytes arrive, a read stays within one record, and Ready says true
// only if a whole one is here.
func TestWireReadsRecordByRecord(t *testing.T) {
	t.Parallel()
	near, far := pairOfWires(t)
	random := rand.New(rand.NewPCG(1, 2))
	var all []byte
	var ends []int
	for i := range 400 {
		size := []int{0, 1, 2, 100, 16401, random.IntN(16402)}[random.IntN(6)]
		all = append(all, record(size, byte(i))...)
		ends = append(ends, len(all))
	}
	go func() {
		for rest := all; len(rest) > 0; {
			n := min(1+random.IntN(100_000), len(rest))
			if _, err := far.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
		far.Close()
	}()
	var got []byte
	into := make([]byte, 20_000)
	for len(ends) > 0 {
		near.Wait()
		ready := near.Ready()
		n, err := near.Read(into[:1+len(got)%len(into)])
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, into[:n]...)
		if len(got) > ends[0] {
			t.Fatalf("a read went %d bytes into the next record", len(got)-ends[0])
		}
		if ready && near.left > 0 && near.Buffered() == 0 {
			t.Fatal("a record that was ready is not here")
		}
		if len(got) == ends[0] {
			ends = ends[1:]
		}
	}
	if !bytes.Equal(got, all) {
		t.Error("other bytes arrived")
	}
	if _, err := near.Read(into); err != io.EOF || near.in != nil {
		t.Errorf("got %v, want the end and no space held", err)
	}
}

func TestWireEndsInAHeader(t *testing.T) {
	t.Parallel()
	near, far := pairOfWires(t)
	far.Write([]byte{23, 3, 3})
	far.Close()
	got, err := io.ReadAll(near)
	if err != nil || !bytes.Equal(got, []byte{23, 3, 3}) {
		t.Errorf("got %v, %v", got, err)
	}
}

// What is held back goes out at once, in order, and nothing is lost when it is more
// than there is space for.
func TestWireHoldsBack(t *testing.T) {
	t.Parallel()
	near, far := pairOfWires(t)
	var want []byte
	arrived := make(chan []byte, 1)
	go func() { got, _ := io.ReadAll(far); arrived <- got }()
	send := func(size int) {
		t.Helper()
		text := record(size, byte(size))
		want = append(want, text...)
		if n, err := near.Write(text); err != nil || n != len(text) {
			t.Fatalf("wrote %d, %v", n, err)
		}
	}
	send(10)
	near.Hold()
	for range 3 {
		send(16384)
	}
	if near.size != 3*(recordHead+16384) {
		t.Errorf("%d bytes are held", near.size)
	}
	for range 9 {
		send(16384)
	}
	send(wireSpace)
	if err := near.Release(); err != nil || near.held != nil {
		t.Errorf("release: %v", err)
	}
	send(10)
	near.Close()
	if got := <-arrived; !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived, want %d in order", len(got), len(want))
	}
}

func TestWireTimesOutAndGoesOn(t *testing.T) {
	t.Parallel()
	near, far := pairOfWires(t)
	if err := near.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	near.Wait()
	var network net.Error
	if _, err := near.Read(make([]byte, 10)); !errors.As(err, &network) || !network.Timeout() || near.in != nil {
		t.Errorf("got %v, want a timeout and no space held", err)
	}
	if err := near.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	far.Write(record(3, 'x'))
	if n, err := io.ReadFull(near, make([]byte, recordHead+3)); err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
	near.Close()
	near.Wait()
	if _, err := near.Read(make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after closing: got %v", err)
	}
}

func TestWireNeedsADescriptor(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, is := newWire(a, newWirePool()).(*wire); is {
		t.Error("a pipe in memory became a wire")
	}
}
