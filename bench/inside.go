package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/spiffe"
)

// insideRole is a program that serves by the SDK, and beside it the same handler
// by plain Go with the same mutual TLS and no decisions: inside <agent's socket>.
func insideRole(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("inside SOCKET")
	}
	w, err := kith.Open(ctx, kith.Config{Socket: args[0], As: "inside", Serves: true})
	if err != nil {
		return err
	}
	defer w.Close()
	body := []byte(strings.Repeat("x", bodySize))
	handler := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header()["Content-Type"] = []string{"text/plain"}
		_, _ = rw.Write(body)
	})
	var at addresses
	for _, one := range []struct {
		address *string
		serve   func(net.Listener)
	}{
		{&at.HTTPTLS, func(l net.Listener) {
			config := spiffe.ServerTLS(w, time.Now, nil)
			config.NextProtos = []string{"http/1.1"}
			_ = (&http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute}).Serve(tls.NewListener(l, config))
		}},
		{&at.HTTP, func(l net.Listener) { _ = w.Server(w.Handler(handler, 0)).Serve(w.Listener(l, "http/1.1")) }},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		*one.address = l.Addr().String()
		go one.serve(l)
	}
	if err := json.NewEncoder(os.Stdout).Encode(at); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { os.Stdin.Close() })
	defer stop()
	bufio.NewScanner(os.Stdin).Scan()
	return nil
}

// startInside starts it and gives the two ways to it, as a caller with an SVID
// has them.
func (p *pairs) startInside(ctx context.Context, d *domain) error {
	h, err := startHelper(ctx, 0, "inside", d.agentSocket())
	if err != nil {
		return err
	}
	p.stops = append(p.stops, func() { _ = h.stop() })
	var at addresses
	if err := h.hear(&at); err != nil {
		return err
	}
	w, err := kith.Open(ctx, kith.Config{Socket: d.agentSocket(), As: "web", Calls: true})
	if err != nil {
		return err
	}
	p.stops = append(p.stops, func() { _ = w.Close() })
	config := spiffe.ClientTLS(w, time.Now, func(spiffe.ID) error { return nil })
	config.NextProtos = []string{"http/1.1"}
	for name, address := range map[string]string{"sdk": at.HTTP, "go": at.HTTPTLS} {
		p.inside = append(p.inside, &target{name: name, http: address, request: get("inside", "/v1/orders"), secure: config, pids: []int{h.pid()}, ownToo: true})
	}
	return nil
}

// insideRounds are many more and shorter than those of the proxies: three per cent
// are to be seen where one tenth of a second differs from the next by fifteen. What
// is compared is each slice with the one beside it, as both met the same machine.
const insideRounds = 72

// inProcess compares the two, in turn.
func (p *pairs) inProcess(ctx context.Context, b *bench, all samples) error {
	for i := range insideRounds {
		for j := range p.inside {
			t := p.inside[(i+j)%len(p.inside)]
			cpu, rate, err := t.requests(ctx, 16, b.scaled(100*time.Millisecond))
			if err != nil {
				return err
			}
			all.add("inside", t.name, cpu)
			all.add("inside/s", t.name, rate)
			took, err := t.paced(ctx, 16, 1000, b.scaled(100*time.Millisecond))
			if err != nil {
				return err
			}
			all.add("inside-p50", t.name, quantile(took, 0.5))
		}
	}
	return nil
}

func insideFigures(all samples) []figure {
	beside := func(what, unit string) string { return "plain Go " + number(all.of(what, "go")) + unit }
	return []figure{
		times("in-process SDK: CPU per request beside plain Go mTLS, decision included", all.beside("inside", "sdk", "go"), 1, 1.03, ""),
		plain("in-process SDK: CPU per request, both ends", all.of("inside", "sdk"), "µs", "", beside("inside", " µs")),
		plain("in-process SDK: requests a second", all.of("inside/s", "sdk"), "", "", beside("inside/s", "")),
		times("in-process SDK: p50 at 1 000 requests/s beside plain Go mTLS", all.beside("inside-p50", "sdk", "go"), 1, 1.03, ""),
	}
}
