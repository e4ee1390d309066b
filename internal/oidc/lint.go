package oidc

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// Finding is the outcome of one check.
type Finding struct {
	Check   string
	Outcome string // ok, warn or fail
	Detail  string
	Do      string // what mends it; may be empty
}

// Lint looks at an issuer and a token as a provider will, before the provider
// does.
type Lint struct {
	Provider Provider
	Issuer   string // empty: the token's
	Audience string // empty: what is usual at the provider
	Resource string // Google: the full name of the provider resource
	Token    string // minted just now; empty: nothing is said of tokens
	// Roots verify the issuer's web server; nil are this host's.
	Roots *x509.CertPool
	// Dial connects to the issuer; nil goes where its name leads.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Now  func() time.Time
}

// Report is what was found, and what to type at the provider.
type Report struct {
	Findings []Finding
	Commands []string
}

// Bad says whether the provider would refuse.
func (r Report) Bad() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Outcome == "fail" })
}

// linting is a Lint under way.
type linting struct {
	Lint
	limits limits
	setup  Setup
	keys   []Key
	set    *spiffe.JWKSet
	report Report
}

// Run checks everything, and goes on after what fails.
func (l Lint) Run(ctx context.Context) Report {
	r := &linting{Lint: l, limits: of(l.Provider)}
	if r.Audience == "" {
		r.Audience = UsualAudience(l.Provider, l.Resource)
	}
	var token *spiffe.UserToken
	var err error
	if l.Token != "" {
		if token, err = spiffe.ParseUserToken(l.Token); err != nil {
			r.fail("token", "it cannot be read: "+err.Error(), "kith get jwt --audience "+quote(r.Audience))
		}
	}
	if r.Issuer == "" && token != nil {
		r.Issuer = token.Issuer
	}
	r.setup = Setup{Issuer: r.Issuer, Audience: r.Audience, Subject: "SUBJECT", Resource: l.Resource}
	if r.issuer() {
		r.published(ctx)
	}
	r.audience()
	if token != nil {
		r.setup.Subject = token.Subject
		r.token(token)
	}
	r.report.Commands = Commands(l.Provider, r.setup)
	return r.report
}

func (r *linting) add(check, outcome, detail, do string) {
	r.report.Findings = append(r.report.Findings, Finding{check, outcome, detail, do})
}
func (r *linting) ok(check, detail string)       { r.add(check, "ok", detail, "") }
func (r *linting) warn(check, detail, do string) { r.add(check, "warn", detail, do) }
func (r *linting) fail(check, detail, do string) { r.add(check, "fail", detail, do) }

// issuer checks the URL's form, and says whether it is worth asking.
func (r *linting) issuer() bool {
	const key = "server.oidc.issuer in kith.yaml of every server"
	if r.Issuer == "" {
		r.fail("issuer", "tokens name no issuer, so nobody outside can find their keys", key)
		return false
	}
	if err := registry.ValidateIssuer(r.Issuer); err != nil {
		do := key
		if hint := fault.HintOf(err); hint != "" {
			do += ": " + hint
		}
		r.fail("issuer", err.Error(), do)
		return false
	}
	u, err := url.Parse(r.Issuer)
	good := true
	if err == nil && u.Port() != "" && r.limits.noPort {
		good = false
		r.fail("issuer", fmt.Sprintf("%s has a port, which %s does not take", r.Issuer, r.limits.name), key+": listen on 443, or behind a proxy that does")
	}
	if most := r.limits.issuerBytes; most > 0 && len(r.Issuer) > most {
		good = false
		r.fail("issuer", fmt.Sprintf("it has %d bytes, %s takes %d", len(r.Issuer), r.limits.name, most), key)
	}
	if good {
		r.ok("issuer", r.Issuer)
	}
	return true
}

// audience checks what tokens are asked for.
func (r *linting) audience() {
	switch most := r.limits.audienceSize; {
	case r.Audience == "":
		r.fail("audience", "Google expects the full name of its provider resource", "--resource projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/NAME")
	case r.limits.onlyAudience && r.Audience != r.limits.audience:
		r.fail("audience", fmt.Sprintf("%s is not %s, the only one that %s takes", r.Audience, r.limits.audience, r.limits.name), "--audience "+r.limits.audience)
	case most > 0 && len(r.Audience) > most:
		r.fail("audience", fmt.Sprintf("it has %d bytes, %s takes %d", len(r.Audience), r.limits.name, most), "")
	default:
		r.ok("audience", r.Audience)
	}
}

// token checks a fresh token.
func (r *linting) token(t *spiffe.UserToken) {
	if t.Issuer != r.Issuer {
		r.fail("token issuer", fmt.Sprintf("iss is %q, and receivers compare it with %q letter by letter", t.Issuer, r.Issuer), "the same server.oidc.issuer on every server, and a restart")
	} else {
		r.ok("token issuer", t.Issuer)
	}
	switch {
	case !slices.Contains(t.Audience, r.Audience):
		r.fail("token audience", fmt.Sprintf("aud is %q, and %s expects %q", strings.Join(t.Audience, " "), r.limits.name, r.Audience), "kith get jwt --audience "+quote(r.Audience))
	case r.limits.onlyAudience && len(t.Audience) != 1:
		r.fail("token audience", fmt.Sprintf("it is for %d audiences, %s takes tokens for one", len(t.Audience), r.limits.name), "kith get jwt --audience "+quote(r.Audience))
	default:
		r.ok("token audience", strings.Join(t.Audience, " "))
	}
	r.subject(t.Subject)
	r.algorithm(t)
	r.times(t)
	if most := r.limits.tokenBytes; most > 0 && len(r.Token) > most {
		r.fail("token size", fmt.Sprintf("%d bytes, %s takes %d", len(r.Token), r.limits.name, most), "fewer and shorter audiences")
	}
	if r.Provider == AWS && t.Claim("azp") != nil {
		r.fail("token claims", "azp is there, and AWS then compares that with its audiences in place of aud", "a token of kith, which has none")
	}
}

func (r *linting) subject(subject string) {
	most := r.limits.subjectBytes
	if most == 0 || len(subject) <= most {
		r.ok("subject", subject)
		return
	}
	detail := fmt.Sprintf("%s has %d bytes, %s takes %d", subject, len(subject), r.limits.name, most)
	do := "shorten the identity rule's template, or put the filter hash on its longest part"
	if _, rest, ok := splitSubject(subject); ok && r.Provider == GCP && len(rest) <= most {
		r.warn("subject", detail+" as google.subject", "map the path alone, as the command below does")
		return
	}
	r.fail("subject", detail, do)
}

// algorithm checks alg, and the signature by the published keys if there are any.
func (r *linting) algorithm(t *spiffe.UserToken) {
	alg := t.Algorithm()
	if !slices.Contains(r.limits.algorithms, alg) {
		r.fail("algorithm", fmt.Sprintf("%s, and %s reads %s", alg, r.limits.name, strings.Join(r.limits.algorithms, ", ")),
			fmt.Sprintf("server.rs256_audiences: [%q] in kith.yaml of every server", r.Audience))
	} else {
		r.ok("algorithm", alg)
	}
	if r.set == nil {
		return
	}
	if !slices.ContainsFunc(r.keys, func(k Key) bool { return k.ID == t.KeyID() }) {
		r.fail("key", fmt.Sprintf("the token's key %q is not among those published", t.KeyID()), "is it the same trust domain? kith doctor on the server")
		return
	}
	check := spiffe.UserTokenCheck{Issuer: t.Issuer, Audiences: t.Audience, Keys: r.set, Now: t.Expiry.Add(-time.Second)} // times are for later
	if err := t.Check(check); err != nil {
		r.fail("key", err.Error(), "is it the same trust domain? kith doctor on the server")
		return
	}
	r.ok("key", fmt.Sprintf("%s verifies the token", t.KeyID()))
}

// times checks when the token is good.
func (r *linting) times(t *spiffe.UserToken) {
	now, issued := r.Now(), t.IssuedAt()
	switch life := t.Expiry.Sub(issued); {
	case issued.IsZero():
		r.fail("lifetime", "iat is missing, which "+r.limits.name+" needs", "a token of kith, which has it")
	case !now.Before(t.Expiry):
		r.fail("lifetime", "it ended at "+t.Expiry.UTC().Format(time.RFC3339), "kith get jwt, and use it within its minutes")
	case issued.After(now.Add(time.Minute)):
		r.fail("lifetime", fmt.Sprintf("it was issued %s ahead of this host's clock", issued.Sub(now).Round(time.Second)), "set the clocks: timedatectl set-ntp true")
	case r.limits.lifetime > 0 && life > r.limits.lifetime:
		r.fail("lifetime", fmt.Sprintf("%s, %s takes %s", life, r.limits.name, r.limits.lifetime), "a token of kith, which lives minutes")
	default:
		r.ok("lifetime", life.String())
	}
}
