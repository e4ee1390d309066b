package kith

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/kith-id/kith/internal/policy"
)

// opa asks a document of OPA's data API. It agrees by being true, or an object
// whose allow is true; anything else, undefined above all, is a no.
type opa struct {
	url    string
	client *http.Client
}

func newOPA(e policy.External, config *tls.Config) *opa {
	return &opa{url: e.OPA, client: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dialer(e.Socket), TLSClientConfig: config, ForceAttemptHTTP2: true,
			MaxIdleConns: maxAsked, MaxIdleConnsPerHost: maxAsked, MaxConnsPerHost: maxAsked, IdleConnTimeout: serverIdle,
			MaxResponseHeaderBytes: maxAnswerHead, DisableCompression: true,
		},
	}}
}

// ask implements oracle.
func (o *opa) ask(ctx context.Context, q *question) error {
	body, err := q.input()
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, o.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := o.client.Do(request)
	if err != nil {
		var outer *url.Error
		if errors.As(err, &outer) {
			err = outer.Err // its text repeats the URL
		}
		return unanswered{fmt.Errorf("ask: %w", err)}
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
		return unanswered{fmt.Errorf("read the answer: %w", err)}
	case answer.StatusCode != http.StatusOK:
		return unanswered{fmt.Errorf("answered with status %d", answer.StatusCode)}
	case len(text) > maxAnswer:
		return unanswered{fmt.Errorf("answered with more than %d bytes", maxAnswer)}
	}
	return agreed(text)
}

// agreed reads OPA's answer.
func agreed(text []byte) error {
	var answer map[string]json.RawMessage // a struct would take RESULT for result
	if err := json.Unmarshal(text, &answer); err != nil {
		return unanswered{errors.New("answered with something that is not OPA's")}
	}
	result := answer["result"]
	if result == nil {
		return errors.New("says nothing: the document is undefined")
	}
	var yes bool
	if json.Unmarshal(result, &yes) == nil {
		if yes {
			return nil
		}
		return errors.New("says no")
	}
	var object map[string]json.RawMessage
	var allow *bool
	switch {
	case json.Unmarshal(result, &object) != nil || json.Unmarshal(object["allow"], &allow) != nil || allow == nil:
		return errors.New("says neither true nor an object with allow")
	case !*allow:
		return errors.New("says no")
	}
	return nil
}

func (o *opa) close() { o.client.CloseIdleConnections() }

// input is the question in the words of OPA's Envoy plugin, so that policies
// written for it work here, and what Kith knows besides under kith.
func (q *question) input() ([]byte, error) {
	attributes, err := q.attributes()
	if err != nil {
		return nil, err
	}
	said, err := protojson.Marshal(attributes)
	if err != nil {
		return nil, err
	}
	input := map[string]any{
		"attributes": json.RawMessage(said),
		"version":    map[string]string{"encoding": "protojson", "ext_authz": "v3"},
		"kith": map[string]any{
			"from": q.peer.id.String(), "to": q.service, "to_id": q.own, "rule": q.rule, "node": q.node,
			"protocol": string(q.request.Protocol), "method": q.request.Method, "path": q.path, "port": q.request.Port,
		},
	}
	if q.request.Protocol != TCP {
		var parts []string
		for part := range strings.SplitSeq(strings.TrimPrefix(q.path, "/"), "/") {
			plain, err := url.PathUnescape(part)
			if err != nil {
				return nil, err
			}
			parts = append(parts, plain)
		}
		query, err := url.ParseQuery(q.request.Query)
		if err != nil {
			return nil, errors.New("the query cannot be read")
		}
		input["parsed_path"], input["parsed_query"] = parts, query
	}
	return json.Marshal(map[string]any{"input": input})
}
