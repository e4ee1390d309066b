//go:build chaos

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// app is the back end: it says 200 to everything it is asked.
func app(port string) error {
	srv := &http.Server{Addr: "127.0.0.1:" + port, ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})}
	return srv.ListenAndServe()
}

// load asks services svc-0 … svc-(n-1) in turn, at a rate per second, until
// it gets SIGTERM or its time is over: nine permitted requests, then a
// forbidden one.
func load(args []string) error {
	services, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	rate, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	limit, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	l := &loader{client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 64}}}
	l.run(ctx, services, time.Second/time.Duration(rate))
	return json.NewEncoder(os.Stdout).Encode(&l.tally)
}

type loader struct {
	client *http.Client
	mu     sync.Mutex
	tally  tally // guarded by mu
}

func (l *loader) run(ctx context.Context, services int, every time.Duration) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(every)
	defer tick.Stop()
	inFlight := make(chan struct{}, 256)
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case inFlight <- struct{}{}:
		default:
			continue // 256 wait already: a bounded load says nothing more by waiting
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-inFlight }()
			l.ask(i%services, i%10 == 9)
		}()
	}
}

func (l *loader) ask(service int, forbidden bool) {
	path := "/ok/x"
	if forbidden {
		path = "/no"
	}
	resp, err := l.client.Get(fmt.Sprintf("http://svc-%d%s", service, path))
	code := 0
	if err == nil {
		code = resp.StatusCode
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.Requests++
	switch {
	case forbidden && code == http.StatusOK:
		l.tally.Forbidden++
	case forbidden:
	case code == http.StatusOK:
		l.tally.LastOK++
	default:
		l.tally.Failed++
		l.tally.LastOK = 0
		if len(l.tally.Errors) < 20 {
			l.tally.Errors = append(l.tally.Errors, fmt.Sprintf("%s svc-%d: %d %v", time.Now().Format(time.TimeOnly), service, code, err))
		}
	}
}
