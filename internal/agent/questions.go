package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/extauthz"
	"github.com/kith-id/kith/internal/workload"
)

// questions is the socket where proxies ask over HTTP. Like on the other one, each
// connection knows the process at its other end. The zero questions is no socket.
type questions struct {
	*socket
	credentials credentials.TransportCredentials
}

// listenForQuestions opens the socket, if there is to be one.
func (a *Agent) listenForQuestions() (questions, error) {
	if a.cfg.AuthzSocket == "" {
		return questions{}, nil
	}
	l, err := listen(a.cfg.AuthzSocket)
	return questions{l, workload.LimitConnections(a.cfg.Credentials, 0, a.refusals.add)}, err
}

// Close implements net.Listener.
func (q questions) Close() error {
	if q.socket == nil {
		return nil
	}
	return q.socket.Close()
}

// askingConn is a connection whose other end is known.
type askingConn struct {
	net.Conn
	caller attest.Peer
}

// Accept gives connections of known processes; others are closed.
func (q questions) Accept() (net.Conn, error) {
	for {
		raw, err := q.socket.Accept()
		if err != nil {
			return nil, err
		}
		conn, info, err := q.credentials.ServerHandshake(raw)
		if err != nil {
			continue // it is closed
		}
		if local, ok := info.(attest.Peered); ok {
			return askingConn{conn, local.Peer()}, nil
		}
		conn.Close()
	}
}

// answer answers on the socket until ctx ends.
func (a *Agent) answer(ctx context.Context, l questions) error {
	if l.socket == nil {
		return nil
	}
	server := a.questionServer(a.questions)
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if known, ok := conn.(askingConn); ok {
			return extauthz.WithCaller(ctx, known.caller)
		}
		return ctx
	}
	return serveQuestions(ctx, server, l)
}

// questionServer is a server for proxies, which keep connections and send no bodies.
func (a *Agent) questionServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:     h,
		ReadTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute, WriteTimeout: 20 * time.Second,
		MaxHeaderBytes: 60 << 10, // net/http adds 4 KiB of slack
		ErrorLog:       slog.NewLogLogger(a.cfg.Log.Handler(), slog.LevelDebug),
	}
}

func serveQuestions(ctx context.Context, server *http.Server, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
