package kith_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/kith-id/kith"
)

// A client: host names are names of services.
func ExampleWorkload_Client() {
	ctx := context.Background()
	w, err := kith.Open(ctx, kith.Config{As: "web"})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	res, err := w.Client().Get("http://orders/v1/orders")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	fmt.Println(res.Status)
}

// A server: the handler sees only what the policy allows, and who asks.
func ExampleWorkload_Serve() {
	ctx := context.Background()
	w, err := kith.Open(ctx, kith.Config{As: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	hello := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		id, _ := kith.Identity(r.Context())
		fmt.Fprintln(rw, "hello", id)
	})
	if err := w.Serve(ctx, hello, ":8443"); err != nil {
		log.Fatal(err)
	}
}

// A raw TCP service: one decision per connection, made again at each change.
func ExampleWorkload_Hold() {
	ctx := context.Background()
	w, err := kith.Open(ctx, kith.Config{As: "db"})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	plain, err := net.Listen("tcp", ":8443")
	if err != nil {
		log.Fatal(err)
	}
	l := w.Listener(plain)
	defer l.Close()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			peer, err := w.Peer(conn.(*tls.Conn).ConnectionState())
			if err != nil {
				return
			}
			d, release := w.Hold(peer, kith.Request{Protocol: kith.TCP, Port: 5432}, func(kith.Decision) { conn.Close() })
			defer release()
			if d.Allowed {
				fmt.Fprintln(conn, "hello", peer.ID())
			}
		}()
	}
}

// A gRPC client: the target is the name of a service.
func ExampleWorkload_GRPCClient() {
	ctx := context.Background()
	w, err := kith.Open(ctx, kith.Config{As: "web"})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	conn, err := w.GRPCClient("orders")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		log.Fatal(err) // PermissionDenied with a decision id, until a rule allows it
	}
	fmt.Println(res.GetStatus())
}

// A gRPC server: each method is decided, streams again at each change of policy.
func ExampleWorkload_ServeGRPC() {
	ctx := context.Background()
	w, err := kith.Open(ctx, kith.Config{As: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	server := w.GRPCServer()
	healthpb.RegisterHealthServer(server, health.NewServer())
	if err := w.ServeGRPC(ctx, server, ":8444"); err != nil {
		log.Fatal(err)
	}
}

// A check of the service's own: policy says who may cancel, this says when.
func ExampleWithAuthorizer() {
	ctx := context.Background()
	w, err := kith.Open(ctx, kith.Config{As: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	office := func(_ context.Context, caller kith.Caller, request kith.Request) error {
		if request.Method == http.MethodDelete && time.Now().Weekday() == time.Sunday {
			return fmt.Errorf("%s cancels on a Sunday", caller.Peer.ID())
		}
		return nil
	}
	orders := http.NewServeMux()
	if err := w.Serve(ctx, orders, ":8443", kith.WithAuthorizer(office)); err != nil {
		log.Fatal(err)
	}
}
