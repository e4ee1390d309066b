package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// A demoStep is one line of the story: a call with the status it must have, or
// a change of rules.
type demoStep struct {
	as, method, path, want string   // a call
	change                 []string // kith allow, kith deny, kith rules
}

// demoStory is the first five minutes, and what they are to prove.
func demoStory() []demoStep {
	get := func(as, path, want string) demoStep { return demoStep{as: as, method: "GET", path: path, want: want} }
	return []demoStep{
		get("web", "/v1/orders", "403"), // nothing is allowed until a rule says so
		{change: []string{"allow", "web", "GET /v1/orders/{**}", "on", "orders", "--name", "web-reads"}},
		get("web", "/v1/orders", "200"),
		get("web", "/v1/orders/7", "200"),
		{as: "web", method: "POST", path: "/v1/orders", want: "403"}, // another method
		get("web", "/admin", "403"),                                  // another path
		get("web", "/v1/orders/%2e%2e%2fadmin", "400"),               // a path that can be read in two ways
		get("reporting", "/v1/orders", "403"),                        // another caller
		{change: []string{"deny", "web", "GET /v1/orders/secret", "on", "orders", "--name", "no-secret"}},
		get("web", "/v1/orders/secret", "403"), // deny beats allow
		get("web", "/v1/orders/7", "200"),
		{change: []string{"rules", "remove", "web-reads"}},
		get("web", "/v1/orders", "403"), // in force when the command has returned
	}
}

// story takes every step, and ends with the two that have no identity.
func (d *demo) story(ctx context.Context) error {
	if err := d.registered(ctx); err != nil {
		return err
	}
	for _, step := range demoStory() {
		if step.change != nil {
			if err := d.change(ctx, step.change); err != nil {
				return err
			}
			continue
		}
		if err := d.call(ctx, step); err != nil {
			return err
		}
	}
	d.say("")
	got, err := d.anonymous(ctx)
	if err != nil {
		return err
	}
	d.observe("somebody without a certificate", "alert 116", got)
	return d.why(ctx)
}

// registered waits until callers can find orders.
func (d *demo) registered(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		live, err := d.liveEndpoints(ctx)
		if err != nil {
			return err
		}
		if len(live["orders"]) > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for orders: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// call is kith curl, whose status is compared.
func (d *demo) call(ctx context.Context, s demoStep) error {
	cmd := d.kith(ctx, "curl", "--as", s.as, "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", s.method, "http://orders"+s.path)
	out, err := cmd.Output()
	if err != nil {
		return errDemo("kith curl --as "+s.as, err, string(out))
	}
	if s.want == "200" {
		d.allowed++
	}
	d.observe(fmt.Sprintf("%s: %s %s", s.as, s.method, s.path), s.want, string(out))
	return nil
}

// change is one kith command that changes rules; it returns when they are in force.
func (d *demo) change(ctx context.Context, args []string) error {
	out, err := d.kith(ctx, args...).CombinedOutput()
	if err != nil {
		return errDemo("kith "+strings.Join(args, " "), err, string(out))
	}
	quoted := make([]string, 0, len(args))
	for _, arg := range args {
		if strings.ContainsAny(arg, " {*") {
			arg = `"` + arg + `"`
		}
		quoted = append(quoted, arg)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	d.say("\nkith %s\n  %s", strings.Join(quoted, " "), lines[len(lines)-1])
	return nil
}

// anonymous calls the front as somebody who has no certificate. The server's
// identity is checked all the same, so that a refusal is the server's.
func (d *demo) anonymous(ctx context.Context) (string, error) {
	trust, err := d.roots(ctx)
	if err != nil {
		return "", err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", d.front))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	offer := spiffe.ClientTLS(trust, d.now, isOrders)
	offer.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	client := tls.Client(conn, offer)
	// TLS 1.3 tells a client that it was refused only when it reads.
	if err = client.HandshakeContext(ctx); err == nil {
		_, err = client.Read(make([]byte, 1))
	}
	switch {
	case err == nil:
		return "let in", nil
	case strings.HasSuffix(err.Error(), "tls: certificate required"): // its type is not exported
		return "alert 116", nil // RFC 8446 6.2
	}
	return err.Error(), nil
}

// isOrders expects the server of the demo at the other end.
func isOrders(id spiffe.ID) error {
	if id.Path() != "/"+devNode+"/orders" {
		return fmt.Errorf("%s is not orders", id)
	}
	return nil
}

// roots is a source that trusts the demo's trust domain and is nobody.
func (d *demo) roots(ctx context.Context) (nobody, error) {
	out, err := d.kith(ctx, "get", "bundle", "--as", "web").Output()
	if err != nil {
		return nobody{}, errDemo("kith get bundle", err, string(out))
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(out); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nobody{}, err
		}
		certs = append(certs, cert)
	}
	td, err := spiffe.ParseTrustDomain(demoDomain)
	return nobody{spiffe.NewBundle(td, 0, 0, certs...)}, err
}

// nobody trusts a bundle and has no identity.
type nobody struct{ bundle *spiffe.Bundle }

// X509SVID says that there is none.
func (nobody) X509SVID() (*spiffe.X509SVID, error) { return nil, errors.New("no identity") }

// Bundle is the one it was given.
func (n nobody) Bundle(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	return n.bundle, td == n.bundle.TrustDomain()
}

// why shows what kith why says of the last denial.
func (d *demo) why(ctx context.Context) error {
	out, err := d.kith(ctx, "why", "last", "--denied").CombinedOutput()
	if err != nil {
		return errDemo("kith why last --denied", err, string(out))
	}
	d.say("\nkith why last --denied")
	for line := range strings.Lines(string(out)) {
		d.say("  %s", strings.TrimRight(line, "\n"))
	}
	d.say("")
	return nil
}
