// Command ledger is a gRPC service on the Kith SDK: it books what callers say
// under the name they have proved, and tells those who follow. The policy says
// who may book and who may follow, method by method.
//
//	kith dev
//	go run ./examples/ledger
//	kith allow teller "grpc ledger.v1.Ledger/*" on ledger
//	go run ./examples/teller -text tea -cents 250
//
// Take the rule away while a teller follows, and its stream ends at once:
//
//	go run ./examples/teller -follow
//	kith rules remove <its name, as kith rules lists it>
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/examples/ledger/ledgerpb"
)

func main() {
	addr := flag.String("listen", ":8444", "address to serve on")
	as := flag.String("as", "ledger", "service to be")
	closed := flag.Bool("closed", false, "book nothing, whatever policy says")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *as, *addr, *closed); err != nil {
		fmt.Fprintln(os.Stderr, "ledger:", err)
		if hint := kith.Hint(err); hint != "" {
			fmt.Fprintln(os.Stderr, "hint:", hint)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, as, addr string, closed bool) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	w, err := kith.Open(ctx, kith.Config{As: as, Log: log})
	if err != nil {
		return err
	}
	defer w.Close()
	server := w.GRPCServer(kith.WithAuthorizer(hours(closed)))
	ledgerpb.RegisterLedgerServer(server, &ledger{changed: make(chan struct{})})
	log.Info("serving", "spiffe_id", w.ID().String(), "listen", addr)
	return w.ServeGRPC(ctx, server, addr)
}

// hours is a check of the ledger's own on top of policy: it can only narrow.
func hours(closed bool) kith.Authorizer {
	return func(_ context.Context, _ kith.Caller, request kith.Request) error {
		if closed && request.Path == ledgerpb.Ledger_Book_FullMethodName {
			return errors.New("the ledger is closed")
		}
		return nil
	}
}

const maxEntries = 1000

// ledger keeps entries in memory.
type ledger struct {
	ledgerpb.UnimplementedLedgerServer

	mu      sync.Mutex
	entries []*ledgerpb.Entry // guarded by mu
	balance int64             // guarded by mu
	changed chan struct{}     // closed at the next entry; guarded by mu
}

// Book adds an entry.
func (l *ledger) Book(ctx context.Context, req *ledgerpb.BookRequest) (*ledgerpb.BookResponse, error) {
	by, ok := kith.Identity(ctx)
	if !ok || req.GetText() == "" || len(req.GetText()) > 100 {
		return nil, status.Error(codes.InvalidArgument, "an entry has a text of at most 100 bytes")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) == maxEntries {
		return nil, status.Error(codes.ResourceExhausted, "the ledger is full")
	}
	l.entries = append(l.entries, &ledgerpb.Entry{By: by.String(), Text: req.GetText(), Cents: req.GetCents()})
	l.balance += req.GetCents()
	close(l.changed)
	l.changed = make(chan struct{})
	return &ledgerpb.BookResponse{BalanceCents: l.balance}, nil
}

// Follow sends entries until the caller leaves, or is no longer allowed to.
func (l *ledger) Follow(_ *ledgerpb.FollowRequest, stream grpc.ServerStreamingServer[ledgerpb.Entry]) error {
	for sent := 0; ; {
		l.mu.Lock()
		news, changed := l.entries[sent:], l.changed
		l.mu.Unlock()
		for _, entry := range news {
			if err := stream.Send(entry); err != nil {
				return err
			}
			sent++
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		}
	}
}
