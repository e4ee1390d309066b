// Command web is a client on the Kith SDK: it places an order with the service
// orders and prints what there is.
//
//	kith allow web "GET,POST /v1/orders" on orders
//	go run ./examples/web
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/kith-id/kith"
)

func main() {
	as := flag.String("as", "web", "service to be")
	item := flag.String("item", "tea", "what to order")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *as, *item); err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		if hint := kith.Hint(err); hint != "" {
			fmt.Fprintln(os.Stderr, "hint:", hint)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, as, item string) error {
	w, err := kith.Open(ctx, kith.Config{As: as, Calls: true})
	if err != nil {
		return err
	}
	defer w.Close()
	client := w.Client()
	client.Timeout = 10 * time.Second
	if err := show(client.Post("http://orders/v1/orders", "application/json", strings.NewReader(fmt.Sprintf(`{"item": %q}`, item)))); err != nil {
		return err
	}
	return show(client.Get("http://orders/v1/orders"))
}

// show prints an answer; a denial is an error that names its decision.
func show(res *http.Response, err error) error {
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return err
	}
	if id := res.Header.Get(kith.DecisionHeader); id != "" {
		return fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(body)))
	}
	fmt.Println(res.Status, strings.TrimSpace(string(body)))
	return nil
}
