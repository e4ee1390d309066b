package kith_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/proxy/proxytest"
	"github.com/kith-id/kith/spiffe"
)

const brokerID = "spiffe://" + proxytest.Domain + "/kith/node/n1"

// endpoint is a Broker Endpoint on TCP that answers what a test wants.
type endpoint struct {
	address string
	turn    sync.Mutex
	answers []any               // messages and errors, in this order; the last one stays; guarded by turn
	asked   []*pb.BrokerRequest // guarded by turn
	bare    int                 // questions without the header; guarded by turn
	more    chan any            // further messages of streams
	seen    chan struct{}       // a value a question
}

// serveBroker serves until the test ends.
func serveBroker(t *testing.T, config *tls.Config, answers ...any) *endpoint {
	t.Helper()
	e := &endpoint{answers: answers, more: make(chan any), seen: make(chan struct{}, 64)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.address = "tcp://" + l.Addr().String()
	stream := func(name string) grpc.StreamDesc {
		return grpc.StreamDesc{StreamName: name, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error { return e.stream(s) }}
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "spiffe.broker.API", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{stream("SubscribeToX509SVID"), stream("SubscribeToX509Bundles"), stream("SubscribeToJWTBundles"), stream("FetchJWTSVID")},
	}, e)
	go server.Serve(l) //nolint:errcheck // it ends by Stop
	t.Cleanup(server.Stop)
	return e
}

func (e *endpoint) stream(s grpc.ServerStream) error {
	request := new(pb.BrokerRequest)
	if err := s.RecvMsg(request); err != nil {
		return err
	}
	e.turn.Lock()
	if md, _ := metadata.FromIncomingContext(s.Context()); strings.Join(md.Get("broker.spiffe.io"), "+") != "true" {
		e.bare++
	}
	e.asked = append(e.asked, request)
	next := e.answers[0]
	if len(e.answers) > 1 {
		e.answers = e.answers[1:]
	}
	e.turn.Unlock()
	e.seen <- struct{}{}
	for {
		if err, ok := next.(error); ok {
			return err
		}
		if err := s.SendMsg(next); err != nil {
			return err
		}
		if _, unary := next.(*pb.JWTSVIDResponse); unary {
			return nil
		}
		select {
		case next = <-e.more:
		case <-s.Context().Done():
			return nil
		}
	}
}

func (e *endpoint) questions() (n, bare int) {
	e.turn.Lock()
	defer e.turn.Unlock()
	return len(e.asked), e.bare
}

// identityOf is a full state with one SVID.
func identityOf(t *testing.T, ca *proxytest.CA, id string, change func(*pb.X509SVID)) *pb.X509SVIDResponse {
	t.Helper()
	svid := ca.Issue(id)
	key, err := svid.MarshalKey()
	if err != nil {
		t.Fatal(err)
	}
	one := &pb.X509SVID{SpiffeId: id, X509Svid: svid.MarshalChain(), X509SvidKey: key, Bundle: ca.Roots()}
	if change != nil {
		change(one)
	}
	return &pb.X509SVIDResponse{Svids: []*pb.X509SVID{one}}
}

// mesh is a program with an identity, and TLS of the endpoint it expects.
func mesh(t *testing.T) (*proxytest.Agent, *kith.Workload, *tls.Config) {
	t.Helper()
	agent := proxytest.Start(t)
	w := open(t, agent, kith.Config{As: "mesh", Calls: true})
	return agent, w, spiffe.ServerTLS(agent.CA.Source("/kith/node/n1"), time.Now, nil)
}

func brokerAt(t *testing.T, w *kith.Workload, e *endpoint, wait time.Duration) *kith.Broker {
	t.Helper()
	expect, err := spiffe.ParseID(brokerID)
	if err != nil {
		t.Fatal(err)
	}
	b, err := w.Broker(kith.BrokerConfig{Endpoint: e.address, Expect: expect, Wait: wait})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// process is none of this machine: Linux gives no number above 1<<22.
func process(t *testing.T) spiffe.Reference {
	t.Helper()
	ref, err := spiffe.ProcessReference(1<<22 + 1)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

const webID = "spiffe://" + proxytest.Domain + "/dev/web"

// Rules 100, 102 and 105: each question carries the header and one reference in the
// standard's words; one that could not be answered is asked again, and the next
// message is the whole state.
func TestRule102AnUnavailableEndpointIsAskedAgain(t *testing.T) {
	t.Parallel()
	agent, w, config := mesh(t)
	e := serveBroker(t, config, status.Error(codes.Unavailable, "starting"), status.Error(codes.Unavailable, "starting"), identityOf(t, agent.CA, webID, nil))
	b := brokerAt(t, w, e, time.Minute)
	source, err := b.Follow(t.Context(), process(t))
	if err != nil {
		t.Fatal(err)
	}
	if n, bare := e.questions(); n != 3 || bare != 0 || source.ID().String() != webID {
		t.Errorf("%d questions, %d without the header, for %s", n, bare, source.ID())
	}
	ref := e.asked[0].GetReference().GetReference()
	if ref.GetTypeUrl() != "type.googleapis.com/spiffe.broker.WorkloadPIDReference" || string(ref.GetValue()) != "\x08\x81\x80\x80\x02" {
		t.Errorf("asked about %v", ref)
	}
	next := identityOf(t, agent.CA, webID, func(s *pb.X509SVID) { s.Hint = "internal" })
	more := identityOf(t, agent.CA, "spiffe://"+proxytest.Domain+"/dev/other", func(s *pb.X509SVID) { s.Hint = "internal" })
	next.Svids = append(next.Svids, more.GetSvids()...)
	changed := source.Renewed()
	e.more <- next
	arrives(t, changed)
	if all := source.X509SVIDs(); len(all) != 1 || all[0].Hint != "internal" || all[0].ID.String() != webID {
		t.Errorf("of two with the same hint: %v", all) // rule 111: the first
	}
	e.more <- &pb.X509SVIDResponse{} // no state at all: discarded, the one of before stays
	e.more <- status.Error(codes.PermissionDenied, "redacted")
	arrives(t, source.Done())
	if svid, err := source.X509SVID(); fault.KindOf(err) != fault.Denied || svid != nil {
		t.Errorf("after redaction: %v, %v", svid, err)
	}
}

// Rule 102: what is an error of the client's is reported at once, however long it
// would wait.
func TestRule102ErrorsAreReported(t *testing.T) {
	t.Parallel()
	_, w, config := mesh(t)
	for code, kind := range map[codes.Code]fault.Kind{
		codes.InvalidArgument: fault.Invalid, codes.PermissionDenied: fault.Denied, codes.NotFound: fault.NotFound, codes.Unimplemented: fault.Invalid,
	} {
		e := serveBroker(t, config, status.Error(code, "because"))
		b := brokerAt(t, w, e, time.Hour)
		if _, err := b.Follow(t.Context(), process(t)); fault.KindOf(err) != kind || !strings.Contains(fmt.Sprint(err), "because") {
			t.Errorf("%s: got %v", code, err)
		}
		if _, err := b.JWTSVIDs(t.Context(), process(t), spiffe.ID{}, "a"); fault.KindOf(err) != kind {
			t.Errorf("%s: got %v for a token", code, err)
		}
		if n, _ := e.questions(); n != 2 {
			t.Errorf("%s: asked %d times", code, n)
		}
	}
	e := serveBroker(t, config, status.Error(codes.Unavailable, "never"))
	if _, err := brokerAt(t, w, e, time.Millisecond).X509Bundles(t.Context(), process(t)); err == nil || kith.Hint(err) == "" {
		t.Errorf("never there: %v", err)
	}
}

// Rule 99: who has no SVID of the expected ID is told nothing.
func TestRule99WhoIsNotExpectedIsToldNothing(t *testing.T) {
	t.Parallel()
	agent, w, _ := mesh(t)
	stranger := proxytest.NewCA(t).Source("/kith/node/n1")
	for what, source := range map[string]spiffe.Source{
		"another node": agent.CA.Source("/kith/node/n2"), "a workload": agent.CA.Source("/dev/web"), "another authority's": stranger,
	} {
		e := serveBroker(t, spiffe.ServerTLS(source, time.Now, nil), status.Error(codes.Internal, "asked"))
		b := brokerAt(t, w, e, time.Hour)
		_, err := b.Follow(t.Context(), process(t))
		if fault.KindOf(err) != fault.Denied {
			t.Errorf("%s: got %v", what, err)
		}
		if n, _ := e.questions(); n != 0 {
			t.Errorf("%s was asked", what)
		}
		if hint := kith.Hint(err); strings.Contains(hint, "--expect") != (source != stranger) || hint == "" { // no other name helps
			t.Errorf("%s: hint %q", what, hint)
		}
	}
	e := &endpoint{address: "tcp://127.0.0.1:1"}
	if _, err := w.Broker(kith.BrokerConfig{Endpoint: e.address}); fault.KindOf(err) != fault.Invalid || !strings.Contains(kith.Hint(err), "--expect") {
		t.Errorf("TCP without an expected ID: %v", err)
	}
}

// Answers that are not what they must be are refused: nothing of them is used. Rule
// 111: without the own trust domain, or with keys for another use.
func TestRule111WrongAnswersAreRefused(t *testing.T) {
	t.Parallel()
	agent, w, config := mesh(t)
	own, root := "spiffe://"+proxytest.Domain, agent.CA.Roots()
	x5c := fmt.Sprintf(`{"keys":[{"kty":"EC","use":"x509-svid","crv":"P-256","x":"a","y":"b","x5c":[%q]}]}`, base64.StdEncoding.EncodeToString(root))
	for what, answer := range map[string]proto.Message{
		"no SVID": &pb.X509SVIDResponse{},
		"another's key": identityOf(t, agent.CA, webID, func(s *pb.X509SVID) {
			s.X509SvidKey = identityOf(t, agent.CA, webID, nil).GetSvids()[0].GetX509SvidKey()
		}),
		"another ID":         identityOf(t, agent.CA, webID, func(s *pb.X509SVID) { s.SpiffeId = own + "/dev/admin" }),
		"no bundle":          identityOf(t, agent.CA, webID, func(s *pb.X509SVID) { s.Bundle = nil }),
		"no own roots":       &pb.BrokerX509Bundles{Bundles: map[string][]byte{"spiffe://other.example": root}},
		"no roots":           &pb.BrokerX509Bundles{Bundles: map[string][]byte{own: []byte("x")}},
		"roots of no domain": &pb.BrokerX509Bundles{Bundles: map[string][]byte{own: root, "spiffe://UPPER": root}},
		"no own keys":        &pb.BrokerJWTBundles{Bundles: map[string][]byte{"spiffe://other.example": []byte(`{"keys":[]}`)}},
		"roots for keys":     &pb.BrokerJWTBundles{Bundles: map[string][]byte{own: []byte(x5c)}},
		"long keys":          &pb.BrokerJWTBundles{Bundles: map[string][]byte{own: []byte(`{"keys":[]}` + strings.Repeat(" ", 1<<20))}},
		"no token":           &pb.JWTSVIDResponse{},
		"no real token":      &pb.JWTSVIDResponse{Svids: []*pb.JWTSVID{{SpiffeId: webID, Svid: "a.b.c"}}},
		"too much":           &pb.BrokerX509Bundles{Crl: [][]byte{make([]byte, 17<<20)}},
	} {
		e := serveBroker(t, config, answer)
		b := brokerAt(t, w, e, time.Hour)
		var err error
		switch answer.(type) {
		case *pb.X509SVIDResponse:
			_, err = b.Follow(t.Context(), process(t))
		case *pb.BrokerX509Bundles:
			_, err = b.X509Bundles(t.Context(), process(t))
		case *pb.BrokerJWTBundles:
			_, err = b.JWTBundles(t.Context(), process(t))
		default:
			_, err = b.JWTSVIDs(t.Context(), process(t), spiffe.ID{}, "a")
		}
		if err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	good := serveBroker(t, config, &pb.BrokerX509Bundles{Bundles: map[string][]byte{own: root, "spiffe://other.example": root}})
	if got, err := brokerAt(t, w, good, time.Minute).X509Bundles(t.Context(), process(t)); err != nil || len(got) != 2 {
		t.Errorf("good ones: %v, %v", got, err)
	}
}

// After a renewal of the own SVID further questions show the new one, and streams go
// on; and "unauthenticated" waits for it.
func TestRule102OtherCredentialsAfterARenewal(t *testing.T) {
	t.Parallel()
	agent, w, config := mesh(t)
	state := identityOf(t, agent.CA, webID, nil)
	e := serveBroker(t, config, state, status.Error(codes.Unauthenticated, "who are you"), state)
	b := brokerAt(t, w, e, time.Minute)
	first, err := b.Follow(t.Context(), process(t))
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := b.Follow(t.Context(), process(t))
		got <- err
	}()
	for range 2 {
		arrives(t, e.seen)
	}
	agent.Rotate()
	if err := <-got; err != nil {
		t.Errorf("after the renewal: %v", err)
	}
	if first.ID().String() != webID || first.Err() != nil {
		t.Errorf("the stream of before: %v", first.Err())
	}
	ctx, cancel := context.WithCancel(t.Context())
	third, err := b.Follow(ctx, process(t))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	arrives(t, third.Done())
	if _, err := third.X509SVID(); err == nil || third.Err() != nil {
		t.Errorf("after its context: %v, %v", err, third.Err())
	}
	first.Close()
	b.Close()
	if _, err := b.X509Bundles(t.Context(), process(t)); err == nil {
		t.Error("a closed client answers")
	}
}

func arrives(t *testing.T, event <-chan struct{}) {
	t.Helper()
	select {
	case <-event:
	case <-time.After(time.Minute):
		t.Fatal("nothing came")
	}
}
