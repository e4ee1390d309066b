//go:build attacks

package attacks

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// fewest is how many vectors bar 31 asks for.
const fewest = 120

// answers is what a caller got on one connection.
type answers struct {
	status []int
	bodies []string
	err    error
}

// quiet is how long a proxy that waits for more may be silent before the caller
// says that there is no more: only once it has every answer it must get.
const quiet = 200 * time.Millisecond

// say sends bytes on a connection of its own and reads what comes, to the end.
func (s *stage) say(raw string) answers { return s.sayAwaiting(raw, 0) }

// sayAwaiting is say for bytes that must be answered with 200 so many times. The
// end of a request with Connection: close comes by itself.
func (s *stage) sayAwaiting(raw string, must int) answers {
	conn, err := s.dial("http/1.1")
	if err != nil {
		return answers{err: err}
	}
	defer conn.Close()
	if err := conn.SetDeadline(patience()); err != nil {
		return answers{err: err}
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(conn, raw) // a proxy may refuse before it has read all
	}()
	waiting := time.AfterFunc(lab.Soon, func() { <-sent; _ = conn.CloseWrite() })
	defer waiting.Stop()
	var a answers
	closes := strings.Contains(raw, "\r\nConnection: close\r\n")
	rest := func() {
		if !closes && a.ok() >= must {
			waiting.Reset(quiet)
		}
	}
	rest()
	reader := bufio.NewReader(conn)
	for {
		res, err := http.ReadResponse(reader, nil)
		if err != nil {
			if !ended(err) {
				a.err = errors.New("neither an answer nor an end")
			}
			return a
		}
		if res.StatusCode == http.StatusContinue {
			continue
		}
		body, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
		a.status, a.bodies = append(a.status, res.StatusCode), append(a.bodies, string(body))
		rest()
	}
}

// sayAll says each on a connection of its own, a few at a time; must is nil, or
// as for sayAwaiting.
func (s *stage) sayAll(raws []string, must ...int) []answers {
	got := make([]answers, len(raws))
	var group sync.WaitGroup
	places := make(chan struct{}, 16)
	for i, raw := range raws {
		group.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			n := 0
			if i < len(must) {
				n = must[i]
			}
			got[i] = s.sayAwaiting(raw, n)
		})
	}
	group.Wait()
	return got
}

func (a answers) ok() (n int) {
	for _, status := range a.status {
		if status == http.StatusOK {
			n++
		}
	}
	return n
}

// Attack 54 and bar 31: caller, proxy and application agree on where requests
// begin and end, and on their paths.
func TestAttack54Smuggling(t *testing.T) {
	vectors := smuggling()
	if len(vectors) < fewest {
		t.Fatalf("%d vectors, want %d", len(vectors), fewest)
	}
	vectors = append(vectors, aside(vectors)...)
	eachBackend(t, func(t *testing.T, s *stage, b backend) {
		s.allow("GET,POST,PUT,HEAD,OPTIONS /ok/{**}")
		raws, must := make([]string, len(vectors)), make([]int, len(vectors))
		for i, v := range vectors {
			raws[i] = strings.ReplaceAll(v.raw, "%N", strconv.Itoa(i))
			must[i] = v.ok
		}
		got := s.sayAll(raws, must...)
		if last := s.say("GET /ok/sentinel HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n"); last.ok() != 1 {
			t.Fatalf("a lawful request afterwards: %+v", last)
		}
		disagreements := 0
		blame := func(format string, args ...any) {
			disagreements++
			t.Errorf(format, args...)
		}
		seen := arrived(b, blame)
		for i, v := range vectors {
			judge(v, i, got[i], seen[strconv.Itoa(i)], blame)
		}
		t.Logf("%d vectors before %s, %d disagreements", len(vectors), b.name(), disagreements)
	})
}

// arrived counts what the application saw by vector.
func arrived(b backend, blame func(string, ...any)) map[string]int {
	seen := make(map[string]int)
	for _, r := range b.seen() {
		rest, ok := strings.CutPrefix(r.Target, "/ok/")
		number, _, _ := strings.Cut(rest, "?")
		switch {
		case !ok || !strings.HasPrefix(r.Path, "/ok/"+number):
			blame("%s saw %s %q, which nobody may send", b.name(), r.Method, r.Target)
		case r.Host != "orders":
			blame("%s saw %q for host %q", b.name(), r.Target, r.Host)
		case !strings.Contains(r.XFCC, "URI=spiffe://dev.kith.local/dev/web"):
			blame("%s saw %q without its caller: %q", b.name(), r.Target, r.XFCC)
		}
		seen[number]++
	}
	return seen
}

func judge(v vector, number int, got answers, seen int, blame func(string, ...any)) {
	switch {
	case got.err != nil:
		blame("%s: %v", v.name, got.err)
	case seen > v.most:
		blame("%s: %d requests arrived, at most %d may", v.name, seen, v.most)
	case got.ok() > seen:
		blame("%s: %d answers of 200 to %d requests", v.name, got.ok(), seen)
	case v.ok >= 0 && got.ok() != v.ok:
		blame("%s: %d answers of 200 (%v), want %d", v.name, got.ok(), got.status, v.ok)
	}
	for i, status := range got.status {
		if status == http.StatusOK && !strings.HasPrefix(got.bodies[i], fmt.Sprintf("saw /ok/%d", number)) {
			blame("%s: got the answer of another request: %q", v.name, got.bodies[i])
		}
	}
}
