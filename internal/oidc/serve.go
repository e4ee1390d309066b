package oidc

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// KeepFor is how long receivers may keep a document. A key is published an hour
// before it signs, so nobody who heeds it meets a token of a key it has not; and
// one that was taken back is gone for good after this.
const KeepFor = 5 * time.Minute

// Endpoint answers with the two documents under an issuer's path, whoever asks,
// and with nothing else. It is the same on every server of a trust domain: the
// keys are the trust domain's.
type Endpoint struct {
	issuer   string
	bundle   func() *spiffe.Bundle
	mux      *http.ServeMux
	last     atomic.Pointer[rendered]
	requests *prometheus.CounterVec
}

// NewEndpoint makes the endpoint of an issuer. Bundle gives the trust domain's
// bundle of now, always the same value until it changes.
func NewEndpoint(issuer string, bundle func() *spiffe.Bundle) (*Endpoint, error) {
	if err := registry.ValidateIssuer(issuer); err != nil {
		return nil, err
	}
	at, err := url.Parse(issuer)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	e := &Endpoint{
		issuer: issuer, bundle: bundle, mux: http.NewServeMux(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kith_oidc_requests_total",
			Help: "Requests for the OIDC discovery document and keys, by document (discovery, keys, other) and status.",
		}, []string{"document", "status"}),
	}
	e.mux.HandleFunc("GET "+at.Path+DiscoveryPath, e.answer("discovery", func(r *rendered) document { return r.discovery }))
	e.mux.HandleFunc("GET "+at.Path+KeysPath, e.answer("keys", func(r *rendered) document { return r.keys }))
	e.mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		status := http.StatusNotFound
		if r.URL.Path == at.Path+DiscoveryPath || r.URL.Path == at.Path+KeysPath {
			status = http.StatusMethodNotAllowed
			rw.Header().Set("Allow", "GET, HEAD")
		}
		e.count("other", status)
		http.Error(rw, http.StatusText(status), status)
	})
	return e, nil
}

// ServeHTTP implements http.Handler.
func (e *Endpoint) ServeHTTP(rw http.ResponseWriter, r *http.Request) { e.mux.ServeHTTP(rw, r) }

// Collectors is everything to register.
func (e *Endpoint) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		e.requests,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kith_oidc_keys", Help: "Keys that the OIDC endpoint publishes."},
			func() float64 { return float64(len(e.bundle().JWTKeys())) }),
	}
}

// rendered is a bundle and its documents.
type rendered struct {
	of              *spiffe.Bundle
	discovery, keys document
}

// document is a text and the tag by which a receiver asks whether it is still so.
type document struct {
	text []byte
	tag  string
}

func newDocument(text []byte) document {
	sum := sha256.Sum256(text)
	return document{text, `"` + base64.RawURLEncoding.EncodeToString(sum[:18]) + `"`}
}

// current is the documents of now, made once for each bundle.
func (e *Endpoint) current() (*rendered, error) {
	bundle := e.bundle()
	if known := e.last.Load(); known != nil && known.of == bundle {
		return known, nil
	}
	discovery, keys, err := documents(e.issuer, bundle)
	if err != nil {
		return nil, err
	}
	made := &rendered{bundle, newDocument(discovery), newDocument(keys)}
	e.last.Store(made)
	return made, nil
}

func (e *Endpoint) answer(name string, pick func(*rendered) document) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		now, err := e.current()
		if err != nil { // a receiver keeps what it has
			e.count(name, http.StatusServiceUnavailable)
			http.Error(rw, "no keys", http.StatusServiceUnavailable)
			return
		}
		doc, head := pick(now), rw.Header()
		head.Set("Cache-Control", "public, max-age="+strconv.Itoa(int(KeepFor.Seconds())))
		head.Set("Content-Type", "application/json")
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Etag", doc.tag)
		if r.Header.Get("If-None-Match") == doc.tag {
			e.count(name, http.StatusNotModified)
			rw.WriteHeader(http.StatusNotModified)
			return
		}
		head.Set("Content-Length", strconv.Itoa(len(doc.text)))
		e.count(name, http.StatusOK)
		_, _ = rw.Write(doc.text) // the caller may have gone
	}
}

func (e *Endpoint) count(document string, status int) {
	e.requests.WithLabelValues(document, strconv.Itoa(status)).Inc()
}
