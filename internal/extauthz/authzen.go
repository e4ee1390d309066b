package extauthz

import (
	"mime"
	"net/http"

	"github.com/kith-id/kith/internal/fault"
)

const (
	accessPath     = "/access/"
	evaluationPath = "/access/v1/evaluation"
	batchPath      = "/access/v1/evaluations"
	metadataPath   = "/.well-known/authzen-configuration"
	requestID      = "X-Request-ID"
	maxEvaluations = 256 // in one request
)

// The evaluations semantics of AuthZEN 7.1.2.1.
const (
	executeAll          = "execute_all"
	denyOnFirstDeny     = "deny_on_first_deny"
	permitOnFirstPermit = "permit_on_first_permit"
)

// evaluated is an answer as AuthZEN 5.5 has it.
type evaluated struct {
	Decision bool           `json:"decision"`
	Context  map[string]any `json:"context,omitempty"`
}

// metadata is AuthZEN 9.1. There is no search: nobody is told who may do what.
type metadata struct {
	Point       string `json:"policy_decision_point"`
	Evaluation  string `json:"access_evaluation_endpoint"`
	Evaluations string `json:"access_evaluations_endpoint"`
}

// serveAuthZEN answers the Authorization API 1.0. A denial is an answer, with
// status 200; errors are about the request's form (AuthZEN 10.1.2).
func (s *Service) serveAuthZEN(rw http.ResponseWriter, r *http.Request) {
	if id := r.Header.Values(requestID); len(id) > 0 { // AuthZEN 10.1.3: the same one
		rw.Header().Set(requestID, id[0])
	}
	wanted := http.MethodPost
	if r.URL.Path == metadataPath {
		wanted = http.MethodGet
	}
	switch path := r.URL.Path; {
	case path != evaluationPath && path != batchPath && path != metadataPath:
		s.refuseEvaluation(rw, http.StatusNotFound, "kith has "+evaluationPath+" and "+batchPath+"; search is not offered")
	case r.Method != wanted:
		rw.Header().Set("Allow", wanted)
		s.refuseEvaluation(rw, http.StatusMethodNotAllowed, "this path is for "+wanted)
	case path == metadataPath && s.pointURL == "":
		// AuthZEN 9: to publish it is recommended, and 10.1 says where to ask without it.
		// 9.1.1 wants https, which neither a unix socket nor a port of loopback is.
		s.refuseEvaluation(rw, http.StatusNotFound, "there is no metadata: it is about an https URL, and agent.authzen_url names none; put "+evaluationPath+" behind the URL asked here")
	case path == metadataPath:
		// AuthZEN 9.2.3: whoever asked by another URL must not use it.
		writeJSON(rw, http.StatusOK, metadata{s.pointURL, s.pointURL + evaluationPath, s.pointURL + batchPath}, false)
	default:
		s.serveEvaluation(rw, r)
	}
}

func (s *Service) refuseEvaluation(rw http.ResponseWriter, status int, why string) {
	s.count("authzen", malformedAnswer)
	writeJSON(rw, status, clip(why, maxText), false)
}

// serveEvaluation answers both evaluation endpoints: a batch without evaluations
// is a single one (AuthZEN 7.1).
func (s *Service) serveEvaluation(rw http.ResponseWriter, r *http.Request) {
	body, err := evaluationBody(r)
	var batch []any
	if err == nil && r.URL.Path == batchPath {
		batch, err = evaluationsOf(body)
	}
	if err != nil {
		s.refuseEvaluation(rw, http.StatusBadRequest, err.Error())
		return
	}
	if len(batch) > 0 {
		s.serveBatch(rw, r, body, batch)
		return
	}
	e, err := readEvaluation(body)
	if err != nil {
		s.refuseEvaluation(rw, http.StatusBadRequest, err.Error())
		return
	}
	writeJSON(rw, http.StatusOK, s.answerEvaluation(r, e), false)
}

// serveBatch answers in the order of the questions. One that cannot be read is
// denied by itself (AuthZEN 7.2.1).
func (s *Service) serveBatch(rw http.ResponseWriter, r *http.Request, defaults map[string]any, batch []any) {
	semantic, err := semanticOf(defaults)
	if err != nil {
		s.refuseEvaluation(rw, http.StatusBadRequest, err.Error())
		return
	}
	out := make([]evaluated, 0, len(batch))
	for _, one := range batch {
		var got evaluated
		if e, err := readMember(one, defaults); err != nil {
			s.count("authzen", malformedAnswer)
			got.Context = map[string]any{"error": map[string]any{"status": http.StatusBadRequest, "message": clip(err.Error(), maxText)}}
		} else {
			got = s.answerEvaluation(r, e)
		}
		out = append(out, got)
		if got.Decision && semantic == permitOnFirstPermit || !got.Decision && semantic == denyOnFirstDeny {
			break
		}
	}
	writeJSON(rw, http.StatusOK, map[string]any{"evaluations": out}, false)
}

func (s *Service) answerEvaluation(r *http.Request, e evaluation) evaluated {
	answer := s.put(r, "authzen", func(*Point) (Question, error) { return e.question(s.now()) })
	context := answer.document()
	delete(context, "allow")
	return evaluated{Decision: answer.Allowed(), Context: context}
}

func evaluationBody(r *http.Request) (map[string]any, error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return nil, fault.Invalidf("the content type is not application/json")
	}
	text, err := readBody(r)
	if err != nil {
		return nil, err
	}
	body, err := readJSON(text)
	if err != nil {
		return nil, err
	}
	object, ok := body.(map[string]any)
	if !ok {
		return nil, fault.Invalidf("the request is no object")
	}
	for _, name := range evaluationMembers() {
		if _, ok := object[name].(map[string]any); !ok && object[name] != nil {
			return nil, fault.Invalidf("%s is no object", name)
		}
	}
	return object, nil
}

func evaluationsOf(body map[string]any) ([]any, error) {
	all, ok := body["evaluations"].([]any)
	switch {
	case !ok && body["evaluations"] != nil:
		return nil, fault.Invalidf("evaluations is no array")
	case len(all) > maxEvaluations:
		return nil, fault.Invalidf("%d evaluations, at most %d are answered at once", len(all), maxEvaluations)
	}
	return all, nil
}

func semanticOf(body map[string]any) (string, error) {
	if body["options"] == nil {
		return executeAll, nil
	}
	options := objectOf("options", body["options"])
	semantic := options.text("evaluations_semantic")
	switch semantic {
	case "":
		semantic = executeAll
	case executeAll, denyOnFirstDeny, permitOnFirstPermit:
	default:
		options.fail("options.evaluations_semantic %q is not known", clip(semantic, maxShort))
	}
	return semantic, options.err
}

// readMember reads a member of a batch. What it leaves out is filled in: whole
// entities, and of an entity that is there its type, id and name (AuthZEN 7.1.1).
func readMember(one any, defaults map[string]any) (evaluation, error) {
	own, ok := one.(map[string]any)
	if !ok {
		return evaluation{}, fault.Invalidf("the evaluation is no object")
	}
	out := map[string]any{}
	for _, name := range evaluationMembers() {
		out[name] = own[name]
		if own[name] == nil {
			out[name] = defaults[name]
			continue
		}
		entity, ok := own[name].(map[string]any)
		fallback, _ := defaults[name].(map[string]any)
		if !ok || name == "context" {
			continue
		}
		whole := map[string]any{}
		for key, value := range entity {
			whole[key] = value
		}
		for _, key := range []string{"type", "id", "name"} {
			if value, ok := fallback[key]; ok && whole[key] == nil {
				whole[key] = value
			}
		}
		out[name] = whole
	}
	return readEvaluation(out)
}

func evaluationMembers() []string { return []string{"subject", "action", "resource", "context"} }
