package jwks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/egress"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/spiffe"
)

const (
	fetchLimit = 15 * time.Second // for all of it
	stepLimit  = 5 * time.Second  // for the handshake, and for the head of the answer
	maxBody    = 512 << 10
	maxHeader  = 16 << 10
)

// get asks for a set. Each time makes a connection of its own: without a proxy of
// the environment, cookies, compression or redirects.
func (k *Keeper) get(ctx context.Context, text string) (*spiffe.JWKSet, []byte, error) {
	at, err := k.mayAsk(text)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, text, nil)
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	client := k.client(at)
	defer client.CloseIdleConnections()
	answer, err := client.Do(request)
	if err != nil {
		return nil, nil, explain(err)
	}
	defer answer.Body.Close()
	body, err := egress.ReadAnswer(answer, maxBody)
	if err != nil {
		return nil, nil, err
	}
	return parse(body)
}

// mayAsk refuses plain HTTP to hosts that nobody listed.
func (k *Keeper) mayAsk(text string) (*url.URL, error) {
	if err := usertoken.CheckURL(text); err != nil {
		return nil, err
	}
	at, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	if at.Scheme == "http" && !k.listed(at) {
		err := fmt.Errorf("plain HTTP to %s, whose keys anybody on the way could change", at.Host)
		return nil, fault.Hint(err, "https, or agent.user_tokens.hosts: [%s] in kith.yaml of this node", at.Host)
	}
	return at, nil
}

// listed says whether a URL's host, or host and port, is one of those that may be
// anywhere.
func (k *Keeper) listed(at *url.URL) bool {
	return slices.ContainsFunc(k.cfg.Hosts, func(h string) bool {
		return strings.EqualFold(h, at.Host) || strings.EqualFold(h, at.Hostname())
	})
}

func (k *Keeper) client(at *url.URL) *http.Client {
	dial := egress.Reach{Allow: k.cfg.Allow}.Dial
	if k.listed(at) {
		dial = (&net.Dialer{Timeout: stepLimit, KeepAlive: -1}).DialContext
	}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: k.cfg.Roots, Time: k.cfg.Now},
			TLSHandshakeTimeout:    stepLimit,
			ResponseHeaderTimeout:  stepLimit,
			MaxResponseHeaderBytes: maxHeader,
			DisableKeepAlives:      true,
			DisableCompression:     true, // a compressed answer could be larger than it seems
		},
	}
}

// explain leaves out the URL, which every report has, and adds what to do about an
// address that is not dialled.
func explain(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	if errors.Is(err, egress.ErrAddress) {
		return fault.Hint(err, "if the provider is inside: agent.user_tokens.allow or hosts in kith.yaml of this node")
	}
	return err
}
