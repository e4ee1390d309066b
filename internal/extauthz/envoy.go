package extauthz

import (
	"context"
	"log/slog"
	"math"
	"net/netip"
	"net/textproto"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb/envoypb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// DecisionHeader is the response header that carries the id of a decision.
const DecisionHeader = "Kith-Decision"

// serviceKey is where a filter's context_extensions name the service, for an
// Envoy whose identity belongs to several.
const serviceKey = "kith.service"

// Desk knows the processes that ask.
type Desk interface {
	// Point is the enforcement point that a process is. It blocks while the
	// process is looked at for the first time; a process without an identity is an
	// error of kind Denied.
	Point(ctx context.Context, caller attest.Peer) (*Point, error)
}

// Service answers Envoy's ext_authz and, over HTTP, everybody else.
type Service struct {
	envoypb.UnimplementedAuthorizationServer

	desk      Desk
	documents map[string]Document // by path
	pointURL  string              // as Config.AuthZENURL
	version   string
	now       func() time.Time
	log       *slog.Logger
	chatter   *rate.Limiter // of log lines about questions that cannot be answered
	answers   *prometheus.CounterVec
}

// Config is what a Service needs.
type Config struct {
	// Desk knows the callers.
	Desk Desk
	// Documents are where applications look in OPA's tree, besides below kith.
	Documents []Document
	// AuthZENURL is the https URL that AuthZEN clients ask by, where something in front
	// speaks TLS for this service. Empty: they are told nothing of themselves.
	AuthZENURL string
	Version    string
	Now        func() time.Time
	Log        *slog.Logger
}

// NewService makes a service.
func NewService(cfg Config) *Service {
	return &Service{
		desk: cfg.Desk, documents: documentsOf(cfg.Documents), pointURL: cfg.AuthZENURL, version: cfg.Version, now: cfg.Now, log: cfg.Log,
		chatter: rate.NewLimiter(5, 20), answers: newAnswers(),
	}
}

// Check answers Envoy. It never returns an error: one would let the request pass
// where failure_mode_allow is set, and what cannot be decided is denied.
func (s *Service) Check(ctx context.Context, req *envoypb.CheckRequest) (*envoypb.CheckResponse, error) {
	caller, ok := callerOf(ctx)
	if !ok {
		return respond(Answer{}), nil
	}
	answer := s.ask(ctx, caller, func(*Point) (Question, error) { return questionOf(req.GetAttributes(), s.now()) })
	s.countAnswer("envoy", answer)
	return respond(answer), nil
}

// ask finds the caller's point and puts its question. What goes wrong is a denial.
func (s *Service) ask(ctx context.Context, caller attest.Peer, question func(*Point) (Question, error)) Answer {
	point, err := s.desk.Point(ctx, caller)
	if err != nil {
		s.complain(caller, err)
		return Answer{}
	}
	q, err := question(point)
	answer := point.Decide(q)
	if err != nil {
		answer.Fault = err
	}
	if answer.Fault != nil {
		s.complain(caller, answer.Fault)
	}
	return answer
}

func (s *Service) complain(caller attest.Peer, err error) {
	if s.chatter.Allow() {
		s.log.Warn("question denied", "pid", caller.PID, "uid", caller.UID, "error", err, "hint", fault.HintOf(err))
	}
}

func callerOf(ctx context.Context) (attest.Peer, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return attest.Peer{}, false
	}
	local, ok := p.AuthInfo.(attest.Peered)
	if !ok {
		return attest.Peer{}, false
	}
	return local.Peer(), true
}

// questionOf is a CheckRequest in our words. With an error the question is about
// nobody, and denied.
func questionOf(in *envoypb.AttributeContext, now time.Time) (Question, error) {
	http := in.GetRequest().GetHttp()
	port := in.GetDestination().GetAddress().GetSocketAddress().GetPortValue()
	facts := &policy.Facts{Time: now, Source: addressOf(in.GetSource()), SNI: in.GetTlsSession().GetSni()}
	q := Question{Service: in.GetContextExtensions()[serviceKey]}
	q.Request = policy.Request{
		Protocol: policy.TCP, Facts: facts, Port: uint16(port),
	}
	if port > math.MaxUint16 {
		return q, fault.Invalidf("destination port: %d", port)
	}
	if http != nil {
		fields := headersOf(http)
		facts.Headers = fields
		q.Target = http.GetPath()
		q.Request.Protocol, q.Request.Method, q.Request.Host = policy.HTTP, http.GetMethod(), http.GetHost()
		if kind := fields.Values("Content-Type"); len(kind) > 0 && strings.HasPrefix(kind[0], "application/grpc") {
			q.Request.Protocol, q.Request.GRPC = policy.GRPC, true
		}
	}
	source := in.GetSource()
	switch {
	case source.GetPrincipal() == "" && source.GetCertificate() == "":
		q.Anonymous = true
		return q, nil
	case source.GetPrincipal() != "":
		id, err := workloadID(source.GetPrincipal())
		if err != nil {
			return q, err
		}
		q.From = id
	}
	if source.GetCertificate() == "" {
		return q, nil
	}
	leaf, hash, err := parseLeaf(source.GetCertificate(), now)
	switch {
	case err != nil:
	case !q.From.IsZero() && q.From != leaf:
		err = fault.Invalidf("the certificate is %s's, not %s's", leaf, q.From)
	}
	if err != nil {
		q.From = spiffe.ID{}
		return q, err
	}
	q.From, q.Leaf = leaf, hash
	return q, nil
}

// workloadID is the SPIFFE ID of a peer that Envoy has authenticated: the first
// URI name of its certificate, or else something that is no ID.
func workloadID(principal string) (spiffe.ID, error) {
	id, err := spiffe.ParseID(principal)
	if err != nil {
		return spiffe.ID{}, fault.Invalidf("the peer has no SPIFFE ID: %w", err)
	}
	if id.Path() == "" { // X509-SVID 5.2: a leaf has a path
		return spiffe.ID{}, fault.Invalidf("the peer's ID %s has no path", id)
	}
	return id, nil
}

func addressOf(p *envoypb.AttributeContext_Peer) netip.Addr {
	addr, err := netip.ParseAddr(p.GetAddress().GetSocketAddress().GetAddress())
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}

// fields are the header fields of a request as policy reads them.
type fields map[string][]string

// Values is all there is of a field, by its canonical name.
func (f fields) Values(name string) []string { return f[name] }

// headersOf leaves out the pseudo header fields that Envoy lists among the others.
func headersOf(in *envoypb.AttributeContext_HttpRequest) fields {
	out := make(fields, len(in.GetHeaders()))
	add := func(name, value string) {
		if !strings.HasPrefix(name, ":") {
			name = textproto.CanonicalMIMEHeaderKey(name)
			out[name] = append(out[name], value)
		}
	}
	for name, value := range in.GetHeaders() {
		add(name, value)
	}
	for _, h := range in.GetHeaderMap().GetHeaders() {
		if raw := h.GetRawValue(); len(raw) > 0 {
			add(h.GetKey(), string(raw))
		} else {
			add(h.GetKey(), h.GetValue())
		}
	}
	return out
}

// respond is an answer in Envoy's words. The metadata is for access logs and the
// filters behind; the caller is told the decision's id and not why.
func respond(a Answer) *envoypb.CheckResponse {
	metadata := map[string]*structpb.Value{
		"effect": structpb.NewStringValue(a.Effect.String()), "reason": structpb.NewStringValue(a.Reason.String()),
		"revision": structpb.NewNumberValue(float64(a.Revision)), "observed": structpb.NewBoolValue(a.Observed),
	}
	for name, value := range map[string]string{"rule": a.Rule, "decision": a.ID, "service": a.Service, "from": a.From.String()} {
		if value != "" {
			metadata[name] = structpb.NewStringValue(value)
		}
	}
	out := &envoypb.CheckResponse{Status: &envoypb.Outcome{Code: int32(codes.OK)}, DynamicMetadata: &structpb.Struct{Fields: metadata}}
	if a.Allowed() {
		out.HttpResponse = &envoypb.CheckResponse_OkResponse{OkResponse: &envoypb.OkHttpResponse{}}
		return out
	}
	code, more := envoypb.StatusCode_Forbidden, []*envoypb.HeaderValueOption(nil)
	switch {
	case a.Malformed():
		code = envoypb.StatusCode_BadRequest
	case a.WantsToken():
		code, more = envoypb.StatusCode_Unauthorized, append(more, header("www-authenticate", a.challenge()))
	}
	out.Status = &envoypb.Outcome{Code: int32(codes.PermissionDenied), Message: denial(a)}
	out.HttpResponse = &envoypb.CheckResponse_DeniedResponse{DeniedResponse: &envoypb.DeniedHttpResponse{
		Status: &envoypb.HttpStatus{Code: code}, Body: denial(a),
		Headers: append(more,
			header(strings.ToLower(DecisionHeader), a.ID), header("cache-control", "no-store"),
			header("content-type", "text/plain; charset=utf-8"), header("x-content-type-options", "nosniff"),
		),
	}}
	return out
}

func header(name, value string) *envoypb.HeaderValueOption {
	return &envoypb.HeaderValueOption{
		Header:       &envoypb.HeaderValue{Key: name, Value: value},
		AppendAction: envoypb.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// denial says no in the words of every other enforcement point.
func denial(a Answer) string {
	switch {
	case a.ID == "":
		return "denied by policy\nhint: the agent's log says why\n"
	case a.Malformed():
		return "path is not in its normal form, decision " + a.ID + "\nhint: kith why " + a.ID + "\n"
	case a.WantsToken():
		return "a good user token is needed, decision " + a.ID + "\nhint: kith why " + a.ID + "\n"
	default:
		return "denied by policy, decision " + a.ID + "\nhint: kith why " + a.ID + "\n"
	}
}
