package kith_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/http"

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
		caller, _ := kith.CallerOf(r.Context())
		fmt.Fprintln(rw, "hello", caller.Peer.ID())
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
