package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// addresses is where the backend answers.
type addresses struct{ HTTP, HTTPTLS, Bytes, BytesTLS string }

const bodySize = 1024

// backendRole is the application behind every proxy, and the far end of direct
// connections: backend <directory of PEM files>. It answers 1 KiB to each
// request, and swallows bytes: eight that say how many follow, then those; it
// answers one byte.
func backendRole(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("backend DIRECTORY")
	}
	config, err := mutualTLS(args[0])
	if err != nil {
		return err
	}
	var at addresses
	body := []byte(strings.Repeat("x", bodySize))
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header()["Content-Type"] = []string{"text/plain"}
			_, _ = rw.Write(body)
		}),
	}
	for _, one := range []struct {
		address *string
		secure  bool
		serve   func(net.Listener)
	}{
		{&at.HTTP, false, func(l net.Listener) { _ = server.Serve(l) }},
		{&at.HTTPTLS, true, func(l net.Listener) { _ = server.Serve(l) }},
		{&at.Bytes, false, swallow},
		{&at.BytesTLS, true, swallow},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		*one.address = l.Addr().String()
		if one.secure {
			l = tls.NewListener(l, config)
		}
		go one.serve(l)
	}
	if err := json.NewEncoder(os.Stdout).Encode(at); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { os.Stdin.Close() })
	defer stop()
	bufio.NewScanner(os.Stdin).Scan()
	return nil
}

func swallow(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			buffer := make([]byte, 64<<10)
			for {
				if _, err := io.ReadFull(conn, buffer[:8]); err != nil {
					return
				}
				for left := int64(binary.BigEndian.Uint64(buffer)); left > 0; {
					n, err := conn.Read(buffer[:min(left, int64(len(buffer)))])
					if err != nil {
						return
					}
					left -= int64(n)
				}
				if _, err := conn.Write(buffer[:1]); err != nil {
					return
				}
			}
		}()
	}
}
