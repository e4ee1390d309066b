// Command orders is a service on the Kith SDK: it serves /v1/orders to the
// callers the policy allows, and knows who they are.
//
//	kith dev
//	go run ./examples/orders
//	kith curl --as web http://orders/v1/orders
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/kith-id/kith"
)

func main() {
	addr := flag.String("listen", ":8443", "address to serve on")
	as := flag.String("as", "orders", "service to be")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *as, *addr); err != nil {
		fmt.Fprintln(os.Stderr, "orders:", err)
		if hint := kith.Hint(err); hint != "" {
			fmt.Fprintln(os.Stderr, "hint:", hint)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, as, addr string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	w, err := kith.Open(ctx, kith.Config{As: as, Log: log})
	if err != nil {
		return err
	}
	defer w.Close()
	log.Info("serving", "spiffe_id", w.ID().String(), "listen", addr)
	return w.Serve(ctx, newShop(), addr)
}

// shop keeps orders in memory.
type shop struct {
	mu     sync.Mutex
	orders []order // guarded by mu
}

type order struct {
	Item string `json:"item"`
	By   string `json:"by"` // who ordered, as proved by mutual TLS
}

const maxOrders = 1000

func newShop() http.Handler {
	s := &shop{orders: []order{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/orders", s.list)
	mux.HandleFunc("POST /v1/orders", s.add)
	return mux
}

func (s *shop) list(rw http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rw.Header().Set("Content-Type", "application/json")
	json.NewEncoder(rw).Encode(s.orders)
}

func (s *shop) add(rw http.ResponseWriter, r *http.Request) {
	caller, _ := kith.CallerOf(r.Context())
	var o order
	if err := json.NewDecoder(http.MaxBytesReader(rw, r.Body, 4096)).Decode(&o); err != nil || o.Item == "" {
		http.Error(rw, `want {"item": "…"}`, http.StatusBadRequest)
		return
	}
	o.By = caller.Peer.ID().String()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.orders) == maxOrders {
		http.Error(rw, "the shop is full", http.StatusInsufficientStorage)
		return
	}
	s.orders = append(s.orders, o)
	rw.WriteHeader(http.StatusCreated)
}
