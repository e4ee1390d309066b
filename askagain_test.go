package kith_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// streams is a service whose answers go on until they are cut, behind an external
// decision.
type streams struct {
	t     *testing.T
	agent *proxytest.Agent
	w     *kith.Workload
	c     *http.Client
	judge *judge
	begun time.Time
	heard chan struct{} // one for each question
}

func newStreams(t *testing.T) *streams {
	t.Helper()
	s := &streams{t: t, agent: proxytest.Start(t), begun: time.Now(), heard: make(chan struct{}, 1000)}
	s.w, _ = serveSDK(t, s.agent, "orders", func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(rw, "data: begun")
		http.NewResponseController(rw).Flush() //nolint:errcheck // the caller reads it
		<-r.Context().Done()
	})
	_, s.c = client(t, s.agent, "web")
	s.judge = newJudge(t)
	s.says(`{"result":true}`, 200)
	s.judge.Start()
	s.ask(s.judge.URL)
	s.agent.Rules(proxytest.Allow("reads", "web", "orders", "GET /{**}"))
	s.agent.Settled()
	return s
}

func (s *streams) says(text string, status int) {
	s.judge.does(func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(status)
		fmt.Fprint(rw, text)
		s.heard <- struct{}{}
	})
}

// ask makes whoever is at the URL the one who must agree.
func (s *streams) ask(url string) {
	asking(s.agent, &pb.External{Name: "fraud", Opa: url + "/v1/data/orders/allow", Timeout: patient(), Actions: []string{"GET /asked/{**}"}})
}

// question waits until the judge has answered one.
func (s *streams) question(what string) {
	s.t.Helper()
	select {
	case <-s.heard:
	case <-within(s.t).Done():
		s.t.Fatalf("%s: nobody asked", what)
	}
}

// open begins a stream and returns when it runs; ended is closed when it ends.
func (s *streams) open(path string) (ended <-chan struct{}) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://orders"+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	res, err := s.c.Do(req)
	if err != nil || res.StatusCode != 200 {
		s.t.Fatalf("open: %v, %v", res, err)
	}
	s.t.Cleanup(func() { res.Body.Close() })
	lines := bufio.NewScanner(res.Body)
	if !lines.Scan() {
		s.t.Fatalf("a stream without its first line: %v", lines.Err())
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for lines.Scan() {
			continue
		}
	}()
	return over
}

// later asks again as it is done some time after the beginning.
func (s *streams) later(d time.Duration) { s.w.AskAgain(within(s.t), s.begun.Add(d)) }

func (s *streams) mustLive(what string) {
	s.t.Helper()
	if n := s.w.Stats().Cut; n != 0 {
		s.t.Fatalf("%s: %d streams were cut", what, n)
	}
}

func (s *streams) mustEnd(what string, ended <-chan struct{}) {
	s.t.Helper()
	select {
	case <-ended:
	case <-within(s.t).Done():
		s.t.Fatalf("%s: the stream goes on", what)
	}
	s.agent.Decision(what, func(d *pb.Decision) bool {
		return d.GetReason() == "external_deny" && d.GetNearWant() == "agreement of fraud" && d.GetNearRule() != ""
	})
}

// A stream is asked about again, and ends when whoever agreed does not any more.
func TestStreamEndsWhenExternalDecisionIsTakenBack(t *testing.T) {
	t.Parallel()
	s := newStreams(t)
	other, ended := s.open("/other"), s.open("/asked")
	s.question("a stream that begins")
	s.later(30 * time.Second)
	if n := s.judge.asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once: the agreement is young", n)
	}
	s.later(2 * time.Minute)
	s.question("an agreement of a minute")
	s.mustLive("agreed again")
	s.says(`{"result":false}`, 200)
	s.later(4 * time.Minute)
	s.mustEnd("taken back", ended)
	select {
	case <-other:
		t.Error("what nobody is asked about was cut")
	default:
	}
}

// Silence, as of an OPA that starts again, ends a stream only when its agreement
// is five minutes old.
func TestStreamOutlivesASilenceOfMinutes(t *testing.T) {
	t.Parallel()
	s := newStreams(t)
	ended := s.open("/asked")
	s.says(`{"result":true}`, 500)
	s.later(2 * time.Minute)
	s.mustLive("no answer for two minutes")
	s.says(`{"result":true}`, 200)
	s.later(4 * time.Minute)
	s.says(`{"result":true}`, 500)
	s.later(8 * time.Minute)
	s.mustLive("no answer, and an agreement of four minutes")
	s.later(9*time.Minute + time.Second)
	s.mustEnd("no answer, and an agreement of five minutes", ended)
}

// A change of the rules asks again at once; whoever says no then ends the stream.
func TestChangeOfRulesAsksAboutStreams(t *testing.T) {
	t.Parallel()
	s := newStreams(t)
	ended := s.open("/asked")
	s.question("a stream that begins")
	s.agent.Rules(proxytest.Allow("reads-still", "web", "orders", "GET /{**}"))
	for s.judge.at("kith", "rule") != "reads-still" {
		s.question("the rule that allows now")
	}
	s.mustLive("other rules, and agreed")
	s.says(`{"result":false}`, 200)
	s.agent.Rules(proxytest.Allow("reads", "web", "orders", "GET /{**}"))
	s.mustEnd("other rules, and not agreed", ended)
}

// Whoever is asked in place of another must agree: an agreement of the former does
// not count, and silence is none.
func TestAnotherExternalDecisionMustAgreeToStreams(t *testing.T) {
	t.Parallel()
	s := newStreams(t)
	ended := s.open("/asked")
	silent := newJudge(t)
	silent.does(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500) })
	silent.Start()
	s.ask(silent.URL)
	s.mustEnd("another, who does not answer", ended)
}
