package kith_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// A call that has chosen its connection when the identity is renewed, and begins
// its stream only after gRPC has given that connection up while another stream
// keeps it open, goes to the new one instead of waiting for that stream's end.
func TestGRPCCallCaughtByRotation(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveGRPC(t, agent, "orders", newEcho())
	client, conn := grpcClient(t, agent, "web", "orders")
	agent.Rules(proxytest.Allow("all", "web", "orders", "grpc test.Echo/*"))
	stream := newStream(t, conn, "/test.Echo/Chat")
	exchange(t, stream)

	caught := pause{at: make(chan struct{}, 1), until: make(chan struct{})}
	done := make(chan error, 1)
	ctx := within(t)
	go func() {
		_, err := say(ctx, conn, grpc.PerRPCCredentials(caught))
		done <- err
	}()
	<-caught.at
	rotations := client.Stats().Rotations
	agent.Rotate()
	awaitTrue(t, func() bool { return client.Stats().Rotations > rotations })
	if _, err := say(within(t), conn, grpc.WaitForReady(true)); err != nil {
		t.Fatalf("over a new connection: %v", err)
	}
	close(caught.until)
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("the call that was caught: %v", err)
		}
	case <-ctx.Done():
		t.Error("the call that was caught waits for the stream of another")
	}
	exchange(t, stream) // it goes on where it is
}

// pause holds a call between the choice of its connection and its stream.
type pause struct{ at, until chan struct{} }

// GetRequestMetadata waits.
func (p pause) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	select {
	case p.at <- struct{}{}:
	default:
	}
	select {
	case <-p.until:
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// RequireTransportSecurity is as with a token.
func (pause) RequireTransportSecurity() bool { return true }

// Wherever the server's bytes are cut, what is read is its frames and one GOAWAY
// after the first of them that is whole; none after the server's own, which may
// not be followed by one with more streams.
func TestLeavingReadsOneGoAway(t *testing.T) {
	t.Parallel()
	var sent bytes.Buffer
	framer := http2.NewFramer(&sent, nil)
	var ends []int
	for _, write := range []func() error{
		func() error { return framer.WriteSettings() },
		func() error { return framer.WriteData(1, false, bytes.Repeat([]byte{7}, 9)) }, // like a GOAWAY's head
		func() error { return framer.WritePing(false, [8]byte{1}) },
		func() error { return framer.WriteGoAway(1, http2.ErrCodeNo, nil) },
	} {
		if err := write(); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, sent.Len())
	}
	for cut := range sent.Len() + 1 {
		want := []http2.FrameType{http2.FrameSettings, http2.FrameData, http2.FramePing, http2.FrameGoAway}
		at, _ := slices.BinarySearch(append([]int{0}, ends...), cut)
		if at < len(want) { // the server's own is still to come
			want = slices.Insert(want, at, http2.FrameGoAway)
		}
		if got := framesLeaving(t, sent.Bytes(), cut); !slices.Equal(got, want) {
			t.Errorf("left after %d bytes: got %v, want %v", cut, got, want)
		}
	}
}

// framesLeaving is what a connection's reader sees that is told to leave after
// some bytes.
func framesLeaving(t *testing.T, sent []byte, cut int) []http2.FrameType {
	t.Helper()
	server, client := net.Pipe()
	conn, leave := kith.Leavable(client)
	go func() {
		defer server.Close()
		server.Write(sent[:cut]) //nolint:errcheck // the reader counts
		leave()
		leave()
		server.Write(sent[cut:]) //nolint:errcheck // the reader counts
	}()
	var types []http2.FrameType
	reader := http2.NewFramer(nil, conn)
	for {
		frame, err := reader.ReadFrame()
		if errors.Is(err, io.EOF) {
			return types
		}
		if err != nil {
			t.Fatalf("left after %d bytes: %v", cut, err)
		}
		types = append(types, frame.Header().Type)
	}
}

// A deadline of gRPC's own ends a read, left or not.
func TestLeavingKeepsDeadlines(t *testing.T) {
	t.Parallel()
	_, client := net.Pipe()
	conn, leave := kith.Leavable(client)
	leave()
	if _, err := io.ReadFull(conn, make([]byte, 17)); err != nil {
		t.Fatalf("the GOAWAY: %v", err)
	}
	if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}
