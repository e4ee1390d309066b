package testenv_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/testenv"
)

// shown checks that a header holds a bearer token for billing, by the agent.
func shown(t *testing.T, w *kith.Workload, header string) {
	t.Helper()
	token, ok := strings.CutPrefix(header, "Bearer ")
	if got, err := w.ValidateJWT(t.Context(), token, "billing"); !ok || err != nil || got.ID != w.ID() {
		t.Errorf("shown %d bytes, scheme %v: %v, %v", len(header), ok, got, err)
	}
}

// Rule 42: over HTTP a JWT-SVID is shown as Authorization: Bearer.
func TestRule42HTTP(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t).Workload(t, "web")
	var there string
	other := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { there = "called " + r.Header.Get("Authorization") }))
	defer other.Close()
	var here []string
	billing := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		here = append(here, r.Header.Get("Authorization"))
		switch r.URL.Path {
		case "/away":
			http.Redirect(rw, r, other.URL, http.StatusFound)
		case "/on":
			http.Redirect(rw, r, "/", http.StatusFound)
		}
	}))
	defer billing.Close()
	client := &http.Client{Transport: w.JWTTransport(billing.Client().Transport, "billing")} // which trusts both
	get := func(url string, header ...string) error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, value := range header {
			req.Header.Set("Authorization", value)
		}
		res, err := client.Do(req)
		if err == nil {
			res.Body.Close()
			if got := req.Header.Get("Authorization"); got != "" {
				t.Errorf("the caller's own request was changed: %d bytes", len(got))
			}
		}
		return err
	}
	for _, path := range []string{"/", "/away", "/on"} {
		if err := get(billing.URL + path); err != nil {
			t.Fatal(err)
		}
	}
	if len(here) != 4 {
		t.Fatalf("%d requests, want 4", len(here))
	}
	for _, header := range here {
		shown(t, w, header)
	}
	if there != "called " {
		t.Errorf("after a redirect to another host: %d bytes were shown there", len(there))
	}
	if err := get("http://" + strings.TrimPrefix(billing.URL, "https://")); !fault.Is(err, fault.Invalid) {
		t.Errorf("over plain http: got %v, want Invalid", err)
	}
	if err := get(billing.URL, "Basic eA=="); !fault.Is(err, fault.Invalid) {
		t.Errorf("beside another authorization: got %v, want Invalid", err)
	}
}

// Rule 42: over gRPC it is the metadata authorization: Bearer.
func TestRule42GRPC(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t).Workload(t, "web")
	lender := httptest.NewTLSServer(nil) // for its certificate
	defer lender.Close()
	got := make(chan []string, 1)
	server := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&lender.TLS.Certificates[0])),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			got <- metadata.ValueFromIncomingContext(ctx, "authorization")
			return next(ctx, req)
		}))
	healthpb.RegisterHealthServer(server, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	dial := func(security credentials.TransportCredentials) (*grpc.ClientConn, error) {
		return grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(security), grpc.WithPerRPCCredentials(w.JWTCredentials("billing")))
	}
	trusting := lender.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	conn, err := dial(credentials.NewClientTLSFromCert(trusting, "example.com"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if values := <-got; len(values) != 1 {
		t.Errorf("%d values, want one", len(values))
	} else {
		shown(t, w, values[0])
	}
	if plain, err := dial(insecure.NewCredentials()); err == nil {
		plain.Close()
		t.Error("a token would have gone over a connection without TLS")
	}
}
