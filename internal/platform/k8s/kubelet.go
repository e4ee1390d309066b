// Package k8s tells the pods of Kubernetes that brokers refer to apart, by what the
// kubelet of this node says of them. It asks no API server, so it knows no pod of
// another node, and nothing but pods.
package k8s

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/egress"
	"github.com/kith-id/kith/internal/fault"
)

const (
	// freshFor is how old an answer of the kubelet's may be where it is used.
	freshFor = time.Second
	// missFor is how soon the kubelet is asked again for what an answer lacks, and
	// after it did not answer: so often, and not with each question of a caller.
	missFor = 200 * time.Millisecond
	// askLimit is how long one question may take.
	askLimit = 5 * time.Second
	// maxAnswer is what a node full of pods takes with the longest of annotations.
	maxAnswer = 64 << 20
	// maxFile bounds the files of certificates, keys and tokens.
	maxFile = 1 << 20
)

// Config is where the kubelet is and how it and the agent know each other. Files are
// read again at each question or connection, as kubelets and projected tokens rotate
// theirs.
type Config struct {
	URL      string // https://HOST:10250; http to loopback alone
	Name     string // that its certificate has to have; empty: the host of the URL
	CAFile   string // PEM that its certificate is verified by; https needs one
	Token    string // file of a bearer token; empty: none
	CertFile string // of a client certificate and its key; empty: none
	KeyFile  string
	Now      func() time.Time
}

// Kubelet is the kubelet of this node. It implements attest.Objects.
type Kubelet struct {
	cfg Config
	at  *url.URL

	mu     sync.Mutex
	client *http.Client // made for these roots; guarded by mu
	roots  []byte       // guarded by mu
	held   *answer      // the newest; guarded by mu
	asking *question    // under way; guarded by mu
	failed *question    // the last one, if it failed; guarded by mu
}

// question is one that is asked for everybody who waits for it.
type question struct {
	began  time.Time
	done   chan struct{} // closed when answer and err are there
	answer *answer
	err    error
}

// New checks a configuration; nobody is asked yet.
func New(cfg Config) (*Kubelet, error) {
	at, err := config.KubeletURL(cfg.URL)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	if at.Scheme == "https" && cfg.CAFile == "" {
		return nil, fault.Invalidf("no CA to verify the kubelet %s by", cfg.URL)
	}
	if at.Scheme == "http" && cfg.Token != "" {
		return nil, fault.Invalidf("plain http shows the token for the kubelet to whoever listens")
	}
	return &Kubelet{cfg: cfg, at: at}, nil
}

// since is what the kubelet says: an answer that is not older than the moment from. A
// caller whose ctx ends waits no longer, but a question that is under way is asked to
// its end, as others wait for it too.
func (k *Kubelet) since(ctx context.Context, from time.Time) (*answer, error) {
	for {
		k.mu.Lock()
		switch {
		case k.held != nil && !k.held.at.Before(from):
			defer k.mu.Unlock()
			return k.held, nil
		case k.failed != nil && k.cfg.Now().Sub(k.failed.began) < missFor:
			defer k.mu.Unlock()
			return nil, k.failed.err
		case k.asking == nil:
			q := &question{began: k.cfg.Now(), done: make(chan struct{})}
			k.asking = q
			k.mu.Unlock()
			k.ask(context.WithoutCancel(ctx), q)
			if q.err != nil || !q.began.Before(from) {
				return q.answer, q.err
			}
		default:
			q := k.asking
			k.mu.Unlock()
			select {
			case <-ctx.Done():
				return nil, attest.Away{Err: ctx.Err()}
			case <-q.done:
			}
			if q.err != nil {
				return nil, q.err
			}
		}
	}
}

// ask asks a question for all who wait for it.
func (k *Kubelet) ask(ctx context.Context, q *question) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	q.answer, q.err = k.fetch(ctx, q.began)
	if q.err != nil {
		q.answer, q.err = nil, attest.Away{Err: fmt.Errorf("kubelet %s: %w", k.cfg.URL, q.err)}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asking, k.failed = nil, nil
	if q.err != nil {
		k.failed = q
	} else {
		k.held = q.answer
	}
	close(q.done)
}

// fetch is one question.
func (k *Kubelet) fetch(ctx context.Context, at time.Time) (*answer, error) {
	client, err := k.connect()
	if err != nil {
		return nil, unanswered(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.at.JoinPath("pods").String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if k.cfg.Token != "" {
		token, err := k.token()
		if err != nil {
			return nil, unanswered(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, unanswered(err)
	}
	defer res.Body.Close()
	body, err := egress.ReadAnswer(res, maxAnswer)
	if err != nil {
		client.CloseIdleConnections() // the next one may have another certificate
		return nil, refused(res.StatusCode, fmt.Errorf("GET /pods: %w", err))
	}
	if form, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || form != "application/json" {
		return nil, errors.New("the answer is no JSON")
	}
	pods, err := parsePods(body)
	if err != nil {
		return nil, err
	}
	return newAnswer(at, pods), nil
}

// token is the bearer token of now.
func (k *Kubelet) token() (string, error) {
	text, err := readFile(k.cfg.Token)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fault.Hint(fmt.Errorf("%s holds no token", k.cfg.Token), "agent.kubernetes.token_file in kith.yaml: a file with nothing but the token")
	}
	return token, nil
}

// connect is a client for the roots of now. It follows no redirect, goes through no
// proxy, and shows the client certificate of when it connects.
func (k *Kubelet) connect() (*http.Client, error) {
	var text []byte
	if k.cfg.CAFile != "" {
		var err error
		if text, err = readFile(k.cfg.CAFile); err != nil {
			return nil, err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.client != nil && bytes.Equal(text, k.roots) {
		return k.client, nil
	}
	roots := x509.NewCertPool() // empty: nobody is verified by it
	if k.cfg.CAFile != "" && !roots.AppendCertsFromPEM(text) {
		return nil, fault.Hint(fmt.Errorf("%s holds no certificate", k.cfg.CAFile), "agent.kubernetes.ca_file in kith.yaml: a PEM file")
	}
	if k.client != nil {
		k.client.CloseIdleConnections()
	}
	transport := &http.Transport{
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: k.cfg.Name, Time: k.cfg.Now},
		DialContext:            (&net.Dialer{Timeout: askLimit}).DialContext,
		MaxResponseHeaderBytes: 64 << 10, MaxConnsPerHost: 1, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
	}
	if k.cfg.CertFile != "" {
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return k.certificate() }
	}
	k.roots = text
	k.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return k.client, nil
}

func (k *Kubelet) certificate() (*tls.Certificate, error) {
	chain, err := readFile(k.cfg.CertFile)
	if err != nil {
		return nil, err
	}
	key, err := readFile(k.cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(chain, key)
	return &pair, err
}

// Close gives back the connection to the kubelet.
func (k *Kubelet) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.client != nil {
		k.client.CloseIdleConnections()
	}
	return nil
}

// readFile reads a file of bounded size.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	return text, err
}
