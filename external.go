package kith

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/internal/policy"
)

const (
	maxAsked       = 256 // questions under way to one external decision; others wait, within its timeout
	maxAnswer      = 64 << 10
	maxAnswerHead  = 16 << 10
	maxSentHeaders = 64 << 10 // bytes of a request's headers that are sent along
)

// question is what an external decision is asked: a request that rules allow.
type question struct {
	peer    *Peer
	request *Request
	path    string // in normal form: what will be forwarded
	rule    string // that allows it
	service string
	own     string // our SPIFFE ID
	node    string
	headers []string // those to send
	now     time.Time
}

// oracle is one kind of external decision.
type oracle interface {
	// ask returns nil if it agrees, and else why not; also when it does not answer.
	// It is called from many goroutines at once and ends with ctx.
	ask(ctx context.Context, q *question) error
	// close ends connections; what is under way fails.
	close()
}

// external is one external decision with its connections.
type external struct {
	policy.External

	oracle oracle
	slots  chan struct{} // held by a question
}

// externals are those of all rulings; connections outlive a change of policy that
// is about something else.
type externals struct {
	asked, unanswered atomic.Uint64

	mu      sync.Mutex
	live    []*external            // guarded by mu
	retired map[*external]struct{} // guarded by mu; their last questions may be under way
}

// adopt makes what a table's external decisions are asked through.
func (x *externals) adopt(table *policy.Table) ([]*external, error) {
	var next []*external
	for _, e := range table.Externals() {
		found := x.find(e)
		if found == nil {
			o, err := newOracle(e)
			if err != nil {
				return nil, fmt.Errorf("external decision %s: %w", e.Name, err)
			}
			found = &external{External: e, oracle: o, slots: make(chan struct{}, maxAsked)}
		}
		next = append(next, found)
	}
	x.replace(next)
	return next, nil
}

func (x *externals) find(e policy.External) *external {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, live := range x.live {
		if reflect.DeepEqual(live.External, e) {
			return live
		}
	}
	return nil
}

// replace closes what is not asked any more, once its last question has ended.
func (x *externals) replace(next []*external) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.live {
		if slices.Contains(next, e) {
			continue
		}
		if x.retired == nil {
			x.retired = make(map[*external]struct{})
		}
		x.retired[e] = struct{}{}
		time.AfterFunc(e.limit()+time.Second, func() { x.bury(e) })
	}
	x.live = next
}

func (x *externals) bury(e *external) {
	x.mu.Lock()
	_, there := x.retired[e]
	delete(x.retired, e)
	x.mu.Unlock()
	if there {
		e.oracle.close()
	}
}

// close ends all of them.
func (x *externals) close() {
	x.mu.Lock()
	all := x.live
	for e := range x.retired {
		all = append(all, e)
	}
	x.live, x.retired = nil, nil
	x.mu.Unlock()
	for _, e := range all {
		e.oracle.close()
	}
}

func (e *external) limit() time.Duration {
	if e.Timeout > 0 {
		return e.Timeout
	}
	return policy.DefaultExternalTimeout
}

// ask puts one question within the timeout.
func (e *external) ask(ctx context.Context, q *question) error {
	ctx, cancel := context.WithTimeoutCause(ctx, e.limit(), fmt.Errorf("no answer within %s", e.limit()))
	defer cancel()
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	case <-ctx.Done():
		return unanswered{context.Cause(ctx)}
	}
	err := e.oracle.ask(ctx, q)
	if err != nil && ctx.Err() != nil {
		return unanswered{context.Cause(ctx)}
	}
	return err
}

// unanswered is a denial that nobody made.
type unanswered struct{ error }

func (u unanswered) Unwrap() error { return u.error }

// consult asks the external decisions of a ruling about a request that rules
// allow, in order, until one does not agree. silent says that this one has not
// answered.
func (w *Workload) consult(ctx context.Context, ruling *ruling, peer *Peer, request *Request, d *Decision, verdict *policy.Decision) (silent bool) {
	if len(ruling.externals) == 0 {
		return false
	}
	asked := request.asked()
	asked.Path = d.Path
	own := *request // a copy: the questions must not put every request on the heap
	for i, e := range ruling.externals {
		if !ruling.table.Asks(i, asked) {
			continue
		}
		w.externals.asked.Add(1)
		q := &question{
			peer: peer, request: &own, path: d.Path, rule: d.Rule, service: ruling.service,
			own: w.ID().String(), node: ruling.node, headers: e.Headers, now: w.cfg.Now(),
		}
		err := e.ask(ctx, q)
		if err == nil {
			continue
		}
		if silent = errors.As(err, new(unanswered)); silent {
			w.externals.unanswered.Add(1)
		}
		*verdict = policy.Decision{
			Reason: policy.ExternalDeny, Revision: d.Revision,
			Near: policy.NearMiss{Rule: d.Rule, Field: policy.FieldExternal, Want: "agreement of " + e.Name, Got: err.Error()},
		}
		*d = Decision{Reason: verdict.Reason.String(), Revision: d.Revision, Path: d.Path}
		if ruling.table.Observed() {
			verdict.Effect, verdict.Observed, d.Allowed, d.Observed = policy.Allow, true, true, true
		}
		return silent
	}
	return false
}

func newOracle(e policy.External) (oracle, error) {
	target := e.OPA
	if target == "" {
		target = e.ExtAuthz
	}
	at, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: at.Hostname()}
	if e.CA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(e.CA)) {
			return nil, errors.New("ca holds no certificate in PEM")
		}
	}
	if e.OPA != "" {
		return newOPA(e, config), nil
	}
	return newExtAuthz(e, at, config)
}

// dialer dials the socket where there is one.
func dialer(socket string) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: policy.DefaultExternalTimeout * 10}
	if socket == "" {
		return d.DialContext
	}
	return func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) }
}

// sent are the headers that go along, their names in lower case and values of one
// name joined as RFC 9110 5.2 has it. More than fits is an error: an answer about
// part of a request is none about it.
func (q *question) sent() (map[string]string, error) {
	out := make(map[string]string)
	size := 0
	add := func(name string, values []string) {
		if len(values) > 0 {
			value := strings.ToValidUTF8(strings.Join(values, ","), "\uFFFD")
			out[strings.ToLower(name)] = value
			size += len(name) + len(value)
		}
	}
	all, whole := allOf(q.request.Headers)
	for _, name := range q.headers {
		switch {
		case q.request.Headers == nil:
		case name != "*":
			add(name, q.request.Headers.Values(http.CanonicalHeaderKey(name)))
		case whole:
			for name, values := range all {
				add(name, values)
			}
		default:
			return nil, errors.New("all headers are to be sent, and only named ones are known here")
		}
	}
	if size > maxSentHeaders {
		return nil, fmt.Errorf("headers of %d bytes, at most %d are sent", size, maxSentHeaders)
	}
	return out, nil
}

// allOf is every header of a request, where that is known.
func allOf(headers any) (http.Header, bool) {
	switch h := headers.(type) {
	case http.Header:
		return h, true
	case interface{ All() http.Header }:
		return h.All(), true
	default:
		return nil, false
	}
}

// target is the path with the query.
func (q *question) target() string {
	if q.request.Query == "" {
		return q.path
	}
	return q.path + "?" + q.request.Query
}
