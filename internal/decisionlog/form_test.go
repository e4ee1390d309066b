package decisionlog

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
)

// full is a decision with everything in it.
func full() *pb.Decision {
	d := denial("abcdefghijklmnop")
	d.Headers = map[string]string{"x-request-id": "r1", "authorization": "***"}
	d.Query, d.Claims = map[string]string{"page": "2"}, map[string]string{"sub": "alice"}
	d.ShadowEffect, d.ShadowRule, d.ShadowReason = "allow", "coming", "allow_rule"
	return d
}

func formed(t *testing.T, line func(*entry) ([]byte, error), templates bool) (string, map[string]any) {
	t.Helper()
	l := &Log{cfg: Config{Templates: templates, Version: "1.2.3"}}
	text, err := line(l.entry(full()))
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return string(text), v
}

// at follows names into a document.
func at(v any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		inner, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = inner[name]
	}
	return v
}

func TestOCSFHasWhatTheClassRequires(t *testing.T) {
	t.Parallel()
	text, event := formed(t, ocsfLine, true)
	for path, want := range map[string]any{
		"class_uid": 6003.0, "category_uid": 6.0, "activity_id": 2.0, "type_uid": 600302.0, "severity_id": 2.0,
		"time": 1790000000123.0, "duration": 12.0, "status_id": 2.0, "status_detail": "no_rule", "action_id": 2.0, "disposition_id": 2.0,
		"metadata.version": "1.3.0", "metadata.uid": "abcdefghijklmnop", "metadata.product.name": "Kith", "metadata.product.vendor_name": "Kith",
		"actor.user.uid": "spiffe://acme.example/vms/web", "src_endpoint.uid": "spiffe://acme.example/vms/web",
		"api.operation": "GET /v1/orders/{id}", "api.request.uid": "abcdefghijklmnop", "api.service.name": "orders", "api.response.code": 403.0,
		"dst_endpoint.svc_name": "orders", "http_request.http_method": "GET", "http_request.url.path": "/v1/orders/{id}",
		"policy.version": "12", "unmapped.mode": "shadow", "unmapped.shadow_effect": "allow", "unmapped.near_field": "method",
	} {
		if got := at(event, path); got != want {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
	if strings.Contains(text, "canary-found-here") {
		t.Errorf("what was found in the request is in the log: %s", text)
	}
}

func TestOPALineIsADecisionLogEvent(t *testing.T) {
	t.Parallel()
	_, event := formed(t, opaLine, false)
	for path, want := range map[string]any{
		"decision_id": "abcdefghijklmnop", "timestamp": "2026-09-21T14:13:20.123456789Z", "path": "kith/allow", "labels.node": "vm-7",
		"bundles.kith.revision": "12", "input.source.principal": "spiffe://acme.example/vms/web", "input.destination.service": "orders",
		"input.request.method": "GET", "input.request.path": "/v1/orders/4711", "input.request.headers.x-request-id": "r1",
		"input.request.query.page": "2", "input.claims.sub": "alice", "result.allow": false, "result.reason": "no_rule",
		"result.mode": "shadow", "result.shadow.rule": "coming", "metrics.timer_server_handler_ns": 12345678.0,
	} {
		if got := at(event, path); got != want {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
	if got := event["masked"]; len(got.([]any)) != 1 || got.([]any)[0] != "/input/request/headers/authorization" {
		t.Errorf("masked: got %v, want the authorization header", got)
	}
}

// receiver is a collector with OpenTelemetry's own messages.
type receiver struct {
	collectorpb.UnimplementedLogsServiceServer
	got chan *collectorpb.ExportLogsServiceRequest
}

func (r *receiver) Export(_ context.Context, in *collectorpb.ExportLogsServiceRequest) (*collectorpb.ExportLogsServiceResponse, error) {
	r.got <- in
	return &collectorpb.ExportLogsServiceResponse{}, nil
}

func TestOTLPOverGRPC(t *testing.T) {
	t.Parallel()
	r := &receiver{got: make(chan *collectorpb.ExportLogsServiceRequest, 8)}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collectorpb.RegisterLogsServiceServer(server, r)
	go server.Serve(listener) //nolint:errcheck // it ends with Stop
	defer server.Stop()
	l, end := start(t, Config{OTLP: Collector{Endpoint: "grpc://" + listener.Addr().String()}, Templates: true})
	l.Record(full())
	checkExport(t, <-r.got)
	end()
}

func TestOTLPOverHTTPOutlivesAFailure(t *testing.T) {
	t.Parallel()
	got := make(chan *collectorpb.ExportLogsServiceRequest, 8)
	failures := 1
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if failures > 0 || err != nil || r.URL.Path != "/v1/logs" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			failures--
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		in := new(collectorpb.ExportLogsServiceRequest)
		if err := proto.Unmarshal(body, in); err != nil {
			t.Errorf("body: %v", err)
		}
		got <- in
	}))
	defer server.Close()
	l, end := start(t, Config{OTLP: Collector{Endpoint: server.URL}, Templates: true})
	l.Record(full())
	checkExport(t, <-got)
	end()
	if n := count(l.outlets[0].kept); n != 1 {
		t.Errorf("kept: got %v, want 1", n)
	}
}

func checkExport(t *testing.T, in *collectorpb.ExportLogsServiceRequest) {
	t.Helper()
	record := in.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords()[0]
	if record.GetSeverityText() != "WARN" || record.GetTimeUnixNano() != 1_790_000_000_123_456_789 || record.GetBody().GetStringValue() != "deny GET /v1/orders/{id}" {
		t.Errorf("record: got %v", record)
	}
	values := map[string]string{}
	for _, a := range append(slices.Clone(record.GetAttributes()), in.GetResourceLogs()[0].GetResource().GetAttributes()...) {
		values[a.GetKey()] = a.GetValue().GetStringValue()
	}
	for key, want := range map[string]string{
		"kith.decision.id": "abcdefghijklmnop", "kith.decision.effect": "deny", "kith.decision.reason": "no_rule", "kith.decision.mode": "shadow",
		"kith.from": "spiffe://acme.example/vms/web", "kith.to": "orders", "http.request.method": "GET", "url.template": "/v1/orders/{id}",
		"http.request.header.authorization": "***", "host.name": "vm-7", "service.name": "kith-agent",
	} {
		if values[key] != want {
			t.Errorf("%s: got %q, want %q", key, values[key], want)
		}
	}
}

func TestEndpointsAreRefusedByName(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"collector:4317", "grpc://collector", "ftp://h:1", "grpc://u:p@h:1", "https://h:1/?a=b", "://"} {
		if err := (Collector{Endpoint: bad}).Check(); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
	for _, good := range []string{"", "grpc://127.0.0.1:4317", "grpcs://c:4317", "http://[::1]:4318", "https://c:443/otlp/v1/logs"} {
		if err := (Collector{Endpoint: good}).Check(); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}
