//go:build chaos

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// serveHTTP is an application that says 200 to whatever it is asked.
func serveHTTP(port string) error {
	srv := &http.Server{Addr: "127.0.0.1:" + port, ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})}
	return srv.ListenAndServe()
}

// serveEcho is an application that sends back what it gets.
func serveEcho(port string) error {
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

// hope is what becomes of a request if all is well.
type hope string

const (
	passes   hope = "passes"   // a rule allows it, always
	wavers   hope = "wavers"   // a rule allows it now and then
	isDenied hope = "isDenied" // nothing ever allows it
)

// answer is one line of the load's standard output: what became of one request,
// or of one exchange on a connection that is held. Times are of this machine.
type answer struct {
	Service string    `json:"s"`
	Hope    hope      `json:"h"`
	Begun   time.Time `json:"a"`
	Ended   time.Time `json:"b"`
	Passed  bool      `json:"p"`
	Held    bool      `json:"c,omitempty"`
	Why     string    `json:"e,omitempty"` // why it did not pass
}

// patienceOfCallers is how long a request waits for its answer.
const patienceOfCallers = 10 * time.Second

// loader asks in turn what it was told to, until its standard input ends.
type loader struct {
	every  time.Duration
	client *http.Client
	mu     sync.Mutex
	out    *json.Encoder // guarded by mu
}

// load is a program behind kith run: RATE, then http:SERVICE, and for TCP
// tcp:SERVICE=HOPE=ADDRESS=HELD, the address being local and HELD the number of
// connections to hold open besides making new ones.
func load(args []string) error {
	rate, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	l := &loader{
		every:  time.Second / time.Duration(rate),
		client: &http.Client{Timeout: patienceOfCallers, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 64}},
		out:    json.NewEncoder(os.Stdout),
	}
	var wg sync.WaitGroup
	for _, target := range args[1:] {
		if service, ok := strings.CutPrefix(target, "http:"); ok {
			wg.Go(func() { l.pace(func(i int) { l.http(service, i) }) })
			continue
		}
		parts := strings.Split(strings.TrimPrefix(target, "tcp:"), "=")
		if len(parts) != 4 {
			return fmt.Errorf("target %q", target)
		}
		wg.Go(func() { l.pace(func(int) { l.tcp(parts[0], hope(parts[1]), parts[2]) }) })
		held, err := strconv.Atoi(parts[3])
		if err != nil {
			return err
		}
		for range held {
			wg.Go(func() { l.hold(parts[0], hope(parts[1]), parts[2]) })
		}
	}
	wg.Wait()
	return nil
}

// pace calls ask at the rate, at most 64 at once.
func (l *loader) pace(ask func(i int)) {
	inFlight := make(chan struct{}, 64)
	i := 0
	for range time.Tick(l.every) {
		select {
		case inFlight <- struct{}{}:
		default:
			continue // a bounded load says nothing more by waiting
		}
		n := i
		i++
		go func() {
			defer func() { <-inFlight }()
			ask(n)
		}()
	}
}

func (l *loader) tell(a answer, err error) {
	a.Ended = time.Now()
	if err != nil {
		a.Why = err.Error()
		if len(a.Why) > 300 {
			a.Why = a.Why[:300]
		}
	}
	a.Passed = err == nil
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.out.Encode(a) // who reads has gone; so will we
}

// paths are of ten requests in turn: permitted, wavering and forbidden ones.
func paths() [10]answer {
	ok, waver, no := answer{Hope: passes}, answer{Hope: wavers}, answer{Hope: isDenied}
	return [10]answer{ok, waver, ok, no, ok, waver, ok, ok, no, ok}
}

func (l *loader) http(service string, i int) {
	a := paths()[i%10]
	a.Service, a.Begun = service, time.Now()
	l.tell(a, l.get("http://"+service+"/"+string(a.Hope)+"/x"))
}

// get is nil when the application has answered.
func (l *loader) get(url string) error {
	resp, err := l.client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	case string(body) != "ok\n":
		return fmt.Errorf("the answer is %q", body)
	}
	return nil
}

// tcp makes a connection, which is a handshake, and one exchange.
func (l *loader) tcp(service string, h hope, address string) {
	a := answer{Service: service, Hope: h, Begun: time.Now()}
	conn, err := dialLocal(address)
	if err == nil {
		err = exchange(conn)
		_ = conn.Close()
	}
	l.tell(a, err)
}

// hold keeps a connection and makes an exchange four times a second. A
// connection that ends is made again.
func (l *loader) hold(service string, h hope, address string) {
	var conn net.Conn
	for range time.Tick(250 * time.Millisecond) {
		a := answer{Service: service, Hope: h, Begun: time.Now(), Held: conn != nil}
		var err error
		if conn == nil {
			conn, err = dialLocal(address)
		}
		if err == nil {
			err = exchange(conn)
		}
		if err != nil && conn != nil {
			_ = conn.Close()
			conn = nil
		}
		l.tell(a, err)
	}
}

func dialLocal(address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patienceOfCallers)
	defer cancel()
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// exchange sends a word and waits for it to come back.
func exchange(conn net.Conn) error {
	const word = "are you there?\n"
	if err := conn.SetDeadline(time.Now().Add(patienceOfCallers)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, word); err != nil {
		return err
	}
	got := make([]byte, len(word))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != word {
		return errors.New("another word came back")
	}
	return nil
}
