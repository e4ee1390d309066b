package decisionlog

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
)

const (
	exportPath  = "/v1/logs" // OTLP 1: of a collector over HTTP
	maxResponse = 64 << 10
)

// Collector receives decisions as OTLP logs.
type Collector struct {
	// Endpoint is grpc://host:port, grpcs://, http:// or https://; the last two with
	// the path, /v1/logs if there is none.
	Endpoint string
	// Roots verify it; nil are this host's.
	Roots *x509.CertPool
}

// Check refuses an endpoint that cannot be one.
func (c Collector) Check() error {
	if c.Endpoint == "" {
		return nil
	}
	_, err := c.parse()
	return err
}

func (c Collector) parse() (*url.URL, error) {
	at, err := url.Parse(c.Endpoint)
	switch {
	case err != nil:
		return nil, fault.Invalidf("%q is no URL", c.Endpoint)
	case !slices.Contains([]string{"grpc", "grpcs", "http", "https"}, at.Scheme) || at.Host == "" || at.Port() == "":
		return nil, fault.Hint(fault.Invalidf("%q is not the URL of a collector", c.Endpoint), "grpc://127.0.0.1:4317, or http://127.0.0.1:4318; grpcs and https for TLS")
	case at.User != nil || at.RawQuery != "" || at.Fragment != "":
		return nil, fault.Invalidf("%q has more than host, port and path", c.Endpoint)
	}
	return at, nil
}

// collector is a sink; it has one of the two.
type collector struct {
	export  func(ctx context.Context, in *collectorpb.ExportLogsServiceRequest) (*collectorpb.ExportLogsServiceResponse, error)
	end     func() error
	version string
}

func newCollector(c Collector, version string) (*collector, error) {
	at, err := c.parse()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots, ServerName: at.Hostname()}
	out := &collector{version: version}
	if at.Scheme == "http" || at.Scheme == "https" {
		if at.Path == "" || at.Path == "/" {
			at.Path = exportPath
		}
		transport := &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true}
		client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		out.export = func(ctx context.Context, in *collectorpb.ExportLogsServiceRequest) (*collectorpb.ExportLogsServiceResponse, error) {
			return post(ctx, client, at.String(), in)
		}
		out.end = func() error { transport.CloseIdleConnections(); return nil }
		return out, nil
	}
	security := insecure.NewCredentials()
	if at.Scheme == "grpcs" {
		security = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient("passthrough:///"+at.Host, grpc.WithTransportCredentials(security), grpc.WithNoProxy(), grpc.WithDisableServiceConfig())
	if err != nil {
		return nil, fmt.Errorf("collector %s: %w", at.Host, err)
	}
	client := collectorpb.NewLogsServiceClient(conn)
	out.end = conn.Close
	out.export = func(ctx context.Context, in *collectorpb.ExportLogsServiceRequest) (*collectorpb.ExportLogsServiceResponse, error) {
		return client.Export(ctx, in)
	}
	return out, nil
}

// post is OTLP over HTTP, in protobuf.
func post(ctx context.Context, client *http.Client, target string, in *collectorpb.ExportLogsServiceRequest) (*collectorpb.ExportLogsServiceResponse, error) {
	body, err := proto.Marshal(in)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("the collector answers %s", resp.Status)
	}
	out := new(collectorpb.ExportLogsServiceResponse)
	if len(answer) > 0 && resp.Header.Get("Content-Type") == "application/x-protobuf" {
		err = proto.Unmarshal(answer, out)
	}
	return out, err
}

// write implements sink. A partial success is one: OTLP forbids to send it again.
func (c *collector) write(ctx context.Context, entries []*entry) (int, error) {
	byNode := make(map[string][]*logspb.LogRecord)
	for _, e := range entries {
		byNode[e.node] = append(byNode[e.node], e.otlp())
	}
	in := &collectorpb.ExportLogsServiceRequest{}
	for node, records := range byNode {
		in.ResourceLogs = append(in.ResourceLogs, &logspb.ResourceLogs{
			Resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{
				text("service.name", "kith-agent"), text("service.version", c.version), text("host.name", node),
			}},
			ScopeLogs: []*logspb.ScopeLogs{{Scope: &commonpb.InstrumentationScope{Name: "kith.decisions"}, LogRecords: records}},
		})
	}
	if _, err := c.export(ctx, in); err != nil {
		return 0, err
	}
	return len(entries), nil
}

func (c *collector) close() error { return c.end() }

// otlp is an entry as a log record: names of OpenTelemetry's conventions where
// they have one, else under kith.
func (e *entry) otlp() *logspb.LogRecord {
	record := &logspb.LogRecord{
		TimeUnixNano: uint64(e.time.UnixNano()), ObservedTimeUnixNano: uint64(e.time.UnixNano()),
		SeverityNumber: logspb.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO", EventName: "kith.decision",
		Body: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: e.effect + " " + e.operation()}},
	}
	if !e.allowed() || e.mode == "observe" {
		record.SeverityNumber, record.SeverityText = logspb.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
	}
	path := "url.path"
	if e.template {
		path = "url.template"
	}
	for _, pair := range [][2]string{
		{"kith.decision.id", e.id},
		{"kith.decision.effect", e.effect},
		{"kith.decision.rule", e.rule},
		{"kith.decision.reason", e.reason},
		{"kith.decision.mode", e.mode},
		{"kith.from", e.from},
		{"kith.to", e.to},
		{"kith.to.id", e.toID},
		{"kith.protocol", e.protocol},
		{"http.request.method", e.method},
		{path, e.path},
		{"server.address", e.host},
		{"kith.near.rule", e.nearRule},
		{"kith.near.field", e.nearField},
	} {
		if pair[1] != "" {
			record.Attributes = append(record.Attributes, text(pair[0], pair[1]))
		}
	}
	record.Attributes = append(record.Attributes, number("kith.decision.revision", int64(e.revision)), number("kith.decision.duration_ns", e.took.Nanoseconds()))
	if e.port != 0 {
		record.Attributes = append(record.Attributes, number("server.port", int64(e.port)))
	}
	if e.shadow != nil {
		record.Attributes = append(record.Attributes, text("kith.shadow.effect", e.shadow.Effect),
			text("kith.shadow.rule", e.shadow.Rule), text("kith.shadow.reason", e.shadow.Reason))
	}
	for prefix, values := range map[string]map[string]string{"http.request.header.": e.headers, "kith.query.": e.query, "kith.claim.": e.claims} {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			record.Attributes = append(record.Attributes, text(prefix+name, values[name]))
		}
	}
	return record
}

func text(key, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}}}
}

func number(key string, value int64) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: value}}}
}
