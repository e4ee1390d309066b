package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/server"
)

// demoLimit bounds the whole demo; it takes about two seconds.
const demoLimit = time.Minute

// demoDomain is the trust domain of the demo.
const demoDomain = "demo.kith.local"

// demoVerb tells the story of the first five minutes by itself.
func (a *app) demoVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "demo", Short: "two services that know each other, shown in seconds", Args: atMost(0),
		Long: `Start a throw-away trust domain, an unmodified HTTP server behind it, and callers;
make and change rules; and observe over real sockets that what should be allowed
is allowed, that the rest is denied, and that what is denied never reaches the
server. Exit code 0 only if every observation is as expected.`,
		Example:     "  kith demo",
		Annotations: map[string]string{withoutConfig: ""},
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), demoLimit)
		defer cancel()
		return a.demonstrate(ctx)
	}
	cmd.AddCommand(a.demoApp())
	return cmd
}

// demo is a run of the story.
type demo struct {
	*app
	self    string   // this binary
	env     []string // leads to the throw-away sockets
	front   int      // the port that callers dial
	back    int      // the app's own
	seen    atomic.Int64
	allowed int64 // requests that the app should have seen
	bad     int
	count   int
}

// demonstrate sets the stage, tells the story and counts.
func (a *app) demonstrate(ctx context.Context) error {
	begin := time.Now()
	dir, err := os.MkdirTemp("", "kith-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d, err := a.newDemo(dir)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	defer func() { stop(); <-ended }()
	up := make(chan struct{})
	go func() {
		ended <- d.runDev(ctx, &devFlags{listen: "127.0.0.1:0", trustDomain: demoDomain, level: "error"},
			func(*server.Server) { close(up) })
	}()
	select {
	case <-up:
	case err := <-ended:
		ended <- nil
		return err
	}
	d.say("kith dev     ready after %s, trust domain %s", short(time.Since(begin)), demoDomain)
	orders, err := d.startOrders(ctx)
	if err != nil {
		return err
	}
	defer orders()
	if err := d.story(ctx); err != nil {
		return err
	}
	return d.verdict(time.Since(begin))
}

func (a *app) newDemo(dir string) (*demo, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	places := map[string]string{
		"KITH_RUN_DIR": filepath.Join(dir, "run"), "KITH_STATE_DIR": filepath.Join(dir, "state"), "KITH_CONFIG": filepath.Join(dir, "kith.yaml"),
	}
	inner := *a
	inner.paths, err = config.DefaultPaths(func(name string) string {
		if place, ok := places[name]; ok || strings.HasPrefix(name, "KITH_") {
			return place
		}
		return os.Getenv(name)
	}, os.Geteuid())
	if err != nil {
		return nil, err
	}
	d := &demo{app: &inner, self: self}
	for _, entry := range os.Environ() {
		name := strings.ToLower(entry)
		if !strings.HasPrefix(name, "kith_") && !strings.Contains(name, "_proxy=") && !strings.HasPrefix(name, "spiffe_endpoint_socket=") {
			d.env = append(d.env, entry)
		}
	}
	for name, place := range places {
		d.env = append(d.env, name+"="+place)
	}
	d.front, d.back, err = twoPorts()
	return d, err
}

// twoPorts are two ports of loopback that were free a moment ago.
func twoPorts() (one, two int, err error) {
	var ports [2]int
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, 0, err
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports[0], ports[1], nil
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.stdout, format+"\n", args...) }

// kith is a command line of this very binary.
func (d *demo) kith(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.self, args...)
	cmd.Args[0] = "kith"
	cmd.Env = d.env
	return cmd
}

// startOrders runs the unmodified server behind kith run and counts what it is
// asked.
func (d *demo) startOrders(ctx context.Context) (stop func(), err error) {
	expose := fmt.Sprintf("127.0.0.1:%d=%d", d.front, d.back)
	cmd := d.kith(ctx, "run", "--as", "orders", "--expose", expose, "--", d.self, "demo", "app", fmt.Sprint(d.back))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	var trouble bytes.Buffer
	cmd.Stderr = &trouble
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	up := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(out)
		if lines.Scan() { // its first line says that it listens
			close(up)
		}
		for lines.Scan() {
			d.seen.Add(1)
		}
	}()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-up:
	case err := <-ended:
		return nil, fmt.Errorf("kith run: %w: %s", err, strings.TrimSpace(trouble.String()))
	}
	d.say("kith run     orders, an unmodified HTTP server on 127.0.0.1:%d, behind mutual TLS on 127.0.0.1:%d\n", d.back, d.front)
	return func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended by itself
		<-ended
	}, nil
}

// verdict compares and counts; the app itself is the last witness.
func (d *demo) verdict(took time.Duration) error {
	d.observe("what the server was asked", fmt.Sprintf("%d requests", d.allowed), fmt.Sprintf("%d requests", d.seen.Load()))
	d.say("")
	if d.bad > 0 {
		return fmt.Errorf("%d of %d observations are not as expected", d.bad, d.count)
	}
	d.say("all %d observations are as expected, after %s", d.count, short(took))
	return nil
}

// observe prints an expectation beside what came.
func (d *demo) observe(what, want, got string) {
	d.count++
	verdict := "ok"
	if got != want {
		verdict = "UNEXPECTED, want " + want
		d.bad++
	}
	d.say("  %-58s %-12s %s", what, got, verdict)
}

// demoApp is the server of the demo: it knows nothing of Kith.
func (a *app) demoApp() *cobra.Command {
	return &cobra.Command{
		Use: "app PORT", Hidden: true, Args: exactly(1), Short: "the unmodified server of the demo",
		Annotations: map[string]string{withoutConfig: ""},
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := net.Listen("tcp", "127.0.0.1:"+args[0])
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, "listening")
			srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(a.serveDemo)}
			stop := context.AfterFunc(cmd.Context(), func() { srv.Close() })
			defer stop()
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		},
	}
}

func (a *app) serveDemo(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(a.stdout, r.Method, r.URL.Path)
	_, _ = io.WriteString(w, "three orders\n")
}

// errDemo is a step of the story that could not be taken at all.
func errDemo(step string, err error, output string) error {
	return fault.Hint(fmt.Errorf("%s: %w: %s", step, err, strings.TrimSpace(output)), "kith doctor")
}
