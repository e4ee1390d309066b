package run

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Signals returns a context that ends at the first SIGINT or SIGTERM, with the
// signal as its cause. From then on signals have their default effect again, so
// a second one ends the process at once. Call release to give the signals back.
func Signals(parent context.Context) (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(parent)
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case s := <-c:
			signal.Stop(c)
			cancel(fmt.Errorf("signal: %s", s))
		case <-ctx.Done():
			signal.Stop(c)
		}
	}()
	return ctx, func() {
		cancel(context.Canceled)
		<-done
	}
}
