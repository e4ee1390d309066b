// Command teller is a gRPC client on the Kith SDK: it books with the service
// ledger, or follows what is booked there.
//
//	kith allow teller "grpc ledger.v1.Ledger/*" on ledger
//	go run ./examples/teller -text tea -cents 250
//	go run ./examples/teller -follow
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/examples/ledger/ledgerpb"
)

func main() {
	as := flag.String("as", "teller", "service to be")
	text := flag.String("text", "tea", "what to book")
	cents := flag.Int64("cents", 250, "how much")
	follow := flag.Bool("follow", false, "print what is booked, until interrupted")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	do := func(ctx context.Context, ledger ledgerpb.LedgerClient) error { return book(ctx, ledger, *text, *cents) }
	if *follow {
		do = watch
	}
	if err := run(ctx, *as, do); err != nil {
		fmt.Fprintln(os.Stderr, "teller:", err)
		if hint := kith.Hint(err); hint != "" {
			fmt.Fprintln(os.Stderr, "hint:", hint)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, as string, do func(context.Context, ledgerpb.LedgerClient) error) error {
	w, err := kith.Open(ctx, kith.Config{As: as, Calls: true})
	if err != nil {
		return err
	}
	defer w.Close()
	conn, err := w.GRPCClient("ledger")
	if err != nil {
		return err
	}
	defer conn.Close()
	return do(ctx, ledgerpb.NewLedgerClient(conn))
}

func book(ctx context.Context, ledger ledgerpb.LedgerClient, text string, cents int64) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	res, err := ledger.Book(ctx, &ledgerpb.BookRequest{Text: text, Cents: cents})
	if err != nil {
		return err
	}
	fmt.Println("balance", res.GetBalanceCents())
	return nil
}

func watch(ctx context.Context, ledger ledgerpb.LedgerClient) error {
	stream, err := ledger.Follow(ctx, &ledgerpb.FollowRequest{})
	if err != nil {
		return err
	}
	for {
		entry, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) || ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		fmt.Println(entry.GetBy(), entry.GetText(), entry.GetCents())
	}
}
