package kith

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

const (
	maxCalls      = 1024 // under way on one connection
	maxCallHeader = 64 << 10
	connectionAge = time.Hour        // then the caller connects again and proves itself again
	serverPing    = 5 * time.Minute  // into silence, so that a vanished peer frees its slot
	clientPing    = 30 * time.Second // likewise, while calls are under way
	pingAnswer    = 15 * time.Second
	quickestPings = 10 * time.Second // callers behind our proxy ping each 30 s
	longestRedial = 5 * time.Second
)

// GRPCClient is a gRPC client of a service: where it runs and which identity
// must answer come from the directory and are followed as they change. Calls are
// spread over all endpoints. options come after those of GRPCDialOptions.
func (w *Workload) GRPCClient(service string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient(targetScheme+":///"+service, append(w.GRPCDialOptions(), options...)...)
}

// GRPCDialOptions make [google.golang.org/grpc.NewClient] understand targets
// like kith:///orders. Proxies of the environment are not used: under `kith run`
// they lead to ourselves.
func (w *Workload) GRPCDialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithResolvers(targetBuilder{w}),
		grpc.WithTransportCredentials(w.GRPCCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDefaultServiceConfig(overEndpoints),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: clientPing, Timeout: pingAnswer}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: longestRedial},
			MinConnectTimeout: dialTimeout,
		}),
	}
}

// GRPCServer is a gRPC server with the credentials, interceptors and limits of
// this package: register services on it and give it to [Workload.ServeGRPC].
// Calls of methods it does not have are decided too, so that a caller nobody
// allows anything learns nothing. [WithServerOptions] adds options of gRPC's own.
func (w *Workload) GRPCServer(options ...Option) *grpc.Server {
	own := []grpc.ServerOption{
		grpc.Creds(w.GRPCCredentials()),
		grpc.ChainUnaryInterceptor(w.UnaryInterceptor(options...)),
		grpc.ChainStreamInterceptor(w.StreamInterceptor(options...)),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
			return status.Error(codes.Unimplemented, "unknown service or method")
		}),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.MaxConcurrentStreams(maxCalls),
		grpc.MaxHeaderListSize(maxCallHeader),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: connectionAge, Time: serverPing, Timeout: pingAnswer}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: quickestPings, PermitWithoutStream: true}),
	}
	return grpc.NewServer(append(own, servingOf(options).grpc...)...)
}

// WithServerOptions adds options of gRPC to a [Workload.GRPCServer]. Chained
// interceptors among them run after the decision.
func WithServerOptions(options ...grpc.ServerOption) Option {
	return func(s *serving) { s.grpc = append(s.grpc, options...) }
}

// ServeGRPC is Serve for a [Workload.GRPCServer]: it listens on addr and serves
// until ctx ends, lets calls finish for ten seconds and returns nil. A server
// made without GRPCCredentials serves nobody.
func (w *Workload) ServeGRPC(ctx context.Context, server *grpc.Server, addr string) error {
	inner, withdraw, err := w.listen(ctx, addr)
	if err != nil {
		return err
	}
	defer withdraw()
	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		hard := time.AfterFunc(drainTime, server.Stop)
		defer hard.Stop()
		server.GracefulStop()
	})
	err = server.Serve(sealing{Listener: w.Listener(inner, "h2"), w: w})
	if stop() { // it ended by itself
		server.Stop()
		return err
	}
	<-drained
	return err
}
