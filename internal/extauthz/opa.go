package extauthz

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
)

const (
	ownPackage    = "kith"
	defaultQuery  = "system/main" // what OPA answers POST / by, unless it is told otherwise
	codeParameter = "invalid_parameter"
	codeOperation = "invalid_operation"
	codeNotFound  = "resource_not_found"
	codeUndefined = "undefined_document"
)

// opaError is an error as OPA tells it, indented.
type opaError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// opaAnswer is what POST and GET /v1/data answer. Without a result the document
// is undefined.
type opaAnswer struct {
	Result     any              `json:"result,omitempty"`
	DecisionID string           `json:"decision_id,omitempty"`
	Metrics    map[string]int64 `json:"metrics,omitempty"`
	Provenance *provenance      `json:"provenance,omitempty"`
	Warning    *opaError        `json:"warning,omitempty"`
}

type provenance struct {
	Version   string            `json:"version"`
	Commit    string            `json:"build_commit"`
	Timestamp string            `json:"build_timestamp"`
	Hostname  string            `json:"build_hostname"`
	Bundles   map[string]bundle `json:"bundles,omitempty"`
}

type bundle struct {
	Revision string `json:"revision"`
}

// serveOPA answers as an OPA server does whose documents are decisions: what an
// application asks it about its callers is decided by the rules for the service
// that the application is. Nothing can be written, and no policy read.
//
//	POST /v1/data/kith/allow {"input": {"from": …, "method": …, "path": …}}
func (s *Service) serveOPA(rw http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	document, data := under(path, "/v1/data")
	plain, v0 := under(path, "/v0/data")
	switch {
	case path == "/health":
		s.serveHealth(rw, r)
	case data && (r.Method == http.MethodGet || r.Method == http.MethodPost):
		s.serveData(rw, r, document)
	case v0 && r.Method == http.MethodPost:
		s.serveDocument(rw, r, plain)
	case path == "/" && r.Method == http.MethodPost:
		s.serveDocument(rw, r, defaultQuery)
	case path == "/v1/policies" || path == "/v1/policies/":
		s.serveNoPolicies(rw, r)
	case data:
		s.refuseMethod(rw, r, "GET, POST")
	case v0 || path == "/":
		s.refuseMethod(rw, r, "POST")
	default:
		s.count("opa", malformedAnswer)
		writeJSON(rw, http.StatusNotFound, opaError{codeNotFound, "kith has no " + clip(path, maxShort) + ": it answers /v1/data, /v0/data and /health"}, true)
	}
}

// under is the rest of a path below root, without slashes at its ends.
func under(path, root string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, root)
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	return strings.Trim(rest, "/"), true
}

func (s *Service) refuseMethod(rw http.ResponseWriter, r *http.Request, allow string) {
	s.count("opa", malformedAnswer)
	rw.Header().Set("Allow", allow)
	writeJSON(rw, http.StatusMethodNotAllowed, opaError{codeOperation, clip(r.Method, maxShort) + " is not for this path; rules are changed by kith allow and kith apply"}, true)
}

// serveNoPolicies lists the Rego modules, of which there are none: clients look
// here to see whether there is an OPA.
func (s *Service) serveNoPolicies(rw http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		s.refuseMethod(rw, r, "GET")
		return
	}
	writeJSON(rw, http.StatusOK, map[string]any{"result": []any{}}, asked(r, "pretty"))
}

// serveHealth says whether the questions of the process that asks can be decided.
func (s *Service) serveHealth(rw http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		s.refuseMethod(rw, r, "GET")
		return
	}
	caller, ok := r.Context().Value(callerKey{}).(attest.Peer)
	if ok {
		point, err := s.desk.Point(r.Context(), caller)
		if ok = err == nil && point.ready(); err != nil {
			s.complain(caller, err)
		}
	}
	if !ok {
		writeJSON(rw, http.StatusInternalServerError, map[string]string{"error": "unable to perform evaluation"}, false)
		return
	}
	writeJSON(rw, http.StatusOK, struct{}{}, false)
}

// serveData answers /v1/data: the input is wrapped, and so is the answer.
func (s *Service) serveData(rw http.ResponseWriter, r *http.Request, path string) {
	began := s.now()
	input, err := wrappedInput(r)
	if err != nil {
		s.refuseInput(rw, err)
		return
	}
	var out opaAnswer
	if input == nil && r.Method == http.MethodPost {
		out.Warning = &opaError{"api_usage_warning", "'input' key missing from the request"}
	}
	result, answer := s.evaluate(r, path, input)
	out.Result, out.DecisionID = result, answer.ID
	if asked(r, "metrics") || asked(r, "instrument") {
		out.Metrics = map[string]int64{"timer_server_handler_ns": max(s.now().Sub(began).Nanoseconds(), 1)}
	}
	if asked(r, "provenance") {
		out.Provenance = &provenance{Version: s.version}
		if answer.Revision > 0 {
			out.Provenance.Bundles = map[string]bundle{ownPackage: {strconv.FormatUint(answer.Revision, 10)}}
		}
	}
	writeJSON(rw, http.StatusOK, out, asked(r, "pretty"))
}

// serveDocument answers /v0/data: the body is the input, the answer the document.
func (s *Service) serveDocument(rw http.ResponseWriter, r *http.Request, path string) {
	input, err := jsonBody(r)
	if err != nil {
		s.refuseInput(rw, err)
		return
	}
	result, answer := s.evaluate(r, path, input)
	if answer.ID != "" {
		rw.Header().Set(DecisionHeader, answer.ID)
	}
	if result == nil {
		writeJSON(rw, http.StatusNotFound, opaError{codeUndefined, "document missing: data." + clip(strings.ReplaceAll(path, "/", "."), maxText)}, true)
		return
	}
	writeJSON(rw, http.StatusOK, result, asked(r, "pretty"))
}

func (s *Service) refuseInput(rw http.ResponseWriter, err error) {
	s.count("opa", malformedAnswer)
	writeJSON(rw, http.StatusBadRequest, opaError{codeParameter, clip(err.Error(), maxText)}, true)
}

// wrappedInput is the input of a /v1/data request; nil if there is none.
func wrappedInput(r *http.Request) (any, error) {
	if r.Method == http.MethodGet {
		inputs := r.URL.Query()["input"]
		if len(inputs) == 0 {
			return nil, nil
		}
		if len(inputs) > 1 {
			return nil, fault.Invalidf("parameter input stands %d times", len(inputs))
		}
		input, err := readJSON([]byte(inputs[0]))
		if err != nil {
			return nil, fault.Invalidf("parameter contains malformed input document: %w", err)
		}
		return input, nil
	}
	body, err := jsonBody(r)
	if body == nil || err != nil {
		return nil, err
	}
	whole, ok := body.(map[string]any)
	if !ok {
		return nil, fault.Invalidf("body contains malformed input document: it is no object")
	}
	return whole["input"], nil
}

// jsonBody is a body as JSON; an empty one is nil.
func jsonBody(r *http.Request) (any, error) {
	if strings.Contains(r.Header.Get("Content-Type"), "yaml") {
		return nil, fault.Invalidf("body contains malformed input document: kith reads JSON, not YAML")
	}
	text, err := readBody(r)
	if err != nil || len(text) == 0 {
		return nil, err
	}
	body, err := readJSON(text)
	if err != nil {
		return nil, fault.Invalidf("body contains malformed input document: %w", err)
	}
	return body, nil
}

// evaluate is the document at path for an input; nil if it is undefined, about
// which nothing is decided.
func (s *Service) evaluate(r *http.Request, path string, input any) (any, Answer) {
	doc, rest, ok := s.document(path)
	if !ok {
		s.count("opa", undefinedAnswer)
		return nil, Answer{}
	}
	answer := s.put(r, "opa", func(*Point) (Question, error) { return doc.question(input, s.now()) })
	var result any = map[string]any{"allow": answer.Allowed(), "decision": answer.document()}
	for _, name := range rest {
		members, _ := result.(map[string]any)
		result = members[name]
	}
	return result, answer
}

// put asks for the process at the other end of r's connection.
func (s *Service) put(r *http.Request, way string, question func(*Point) (Question, error)) Answer {
	var answer Answer
	if caller, ok := r.Context().Value(callerKey{}).(attest.Peer); ok {
		answer = s.ask(r.Context(), caller, question)
	}
	s.countAnswer(way, answer)
	return answer
}

// document finds the document that path is or is part of, and the rest of the
// path. A part that no document has is not found.
func (s *Service) document(path string) (doc Document, rest []string, ok bool) {
	names := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	for n := len(names); n > 0; n-- {
		if doc, ok = s.documents[strings.Join(names[:n], "/")]; ok {
			rest = names[n:]
			break
		}
	}
	switch {
	case !ok:
		return doc, nil, false
	case len(rest) == 0, len(rest) == 1 && rest[0] == "allow", rest[0] == "decision" && len(rest) <= 3:
		return doc, rest, true
	default:
		return doc, nil, false
	}
}

// document is all that an application gets to know of a decision about its own
// service.
func (a Answer) document() map[string]any {
	out := map[string]any{"allow": a.Allowed(), "reason": a.Reason.String()}
	for name, value := range map[string]string{
		"rule": a.Rule, "decision_id": a.ID, "service": a.Service, "from": a.From.String(),
	} {
		if value != "" {
			out[name] = value
		}
	}
	if a.Revision > 0 {
		out["revision"] = a.Revision
	}
	if a.Observed {
		out["observed"] = true
	}
	if a.Fault != nil {
		out["error"] = clip(a.Fault.Error(), maxText)
	}
	near := map[string]any{}
	for name, value := range map[string]string{"rule": a.Near.Rule, "field": a.Near.Field, "want": a.Near.Want, "got": a.Near.Got} {
		if value != "" {
			near[name] = clip(value, maxText)
		}
	}
	if a.Denies() && len(near) > 0 {
		out["near_miss"] = near
	}
	return out
}

// asked says that a query parameter of OPA's is on: true, or there without a value.
func asked(r *http.Request, name string) bool {
	values, ok := r.URL.Query()[name]
	return ok && (len(values) == 1 && values[0] == "" || slices.ContainsFunc(values, func(v string) bool { return strings.EqualFold(v, "true") }))
}

func writeJSON(rw http.ResponseWriter, status int, v any, pretty bool) {
	head := rw.Header()
	head.Set("Content-Type", "application/json")
	head.Set("Cache-Control", "no-store")
	head.Set("X-Content-Type-Options", "nosniff")
	rw.WriteHeader(status)
	e := json.NewEncoder(rw)
	if pretty {
		e.SetIndent("", "  ")
	}
	_ = e.Encode(v) // who asked has gone
}

// documentsOf indexes documents, and adds our own.
func documentsOf(all []Document) map[string]Document {
	out := map[string]Document{ownPackage: {Path: ownPackage}}
	for _, doc := range all {
		out[doc.Path] = doc
	}
	return out
}

// ready says that questions can be decided.
func (p *Point) ready() bool {
	ruling := p.ruling.Load()
	return ruling.wrong == nil && len(ruling.tables) > 0 && !p.cfg.Stale()
}
