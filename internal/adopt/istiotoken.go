package adopt

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
)

// requestAuthentication adopts who signs tokens of end users for the workloads
// it selects: a provider for each jwtRule (policy-semantics 2.3).
func (b *book) requestAuthentication(doc *node, o origin, targets []Workload) {
	spec := doc.get("spec")
	if key := spec.unknown("selector", "jwtRules"); key != "" {
		b.refuse(o.part(spec.get(key), key), "spec.%s is not read", key)
		return
	}
	var services []string
	for _, w := range targets {
		if w.Protocol == policy.TCP {
			b.note(o, "on %s: a connection carries no token: nothing to write", w.Service)
		} else if !slices.Contains(services, w.Service) {
			services = append(services, w.Service)
		}
	}
	if len(services) == 0 {
		return
	}
	for i, r := range spec.get("jwtRules").list() {
		part := o.part(r, fmt.Sprintf("jwtRules[%d]", i))
		p, why := istioProvider(r)
		if why == "" {
			why = b.issuerTwice(p.Issuer, services)
		}
		if why != "" {
			b.refuse(part, "%s", why)
			continue
		}
		p.Services = services
		p.Name = b.freeProvider(doc.get("metadata", "name").text())
		if err := p.Validate(); err != nil {
			b.refuse(part, "%v", err)
			continue
		}
		b.providers = append(b.providers, p)
		b.note(part, "provider %s: tokens of %s for %s, to %s", p.Name, p.Issuer, strings.Join(p.Audiences, ", "), strings.Join(services, ", "))
		if r.get("forwardOriginalToken").text() != "true" {
			b.keep(part, "forwardOriginalToken is not true: there the token is taken out of the request, here it goes on to the service as it came")
		}
	}
}

// istioProvider reads one jwtRule; the text says why it cannot be said.
func istioProvider(r *node) (usertoken.Provider, string) {
	p := usertoken.Provider{
		Issuer: r.get("issuer").text(), Audiences: r.get("audiences").texts(), URL: r.get("jwksUri").text(), Keys: r.get("jwks").text(),
	}
	switch key := r.unknown("issuer", "audiences", "jwksUri", "jwks", "fromHeaders", "fromParams", "fromCookies", "forwardOriginalToken", "timeout"); {
	case key == "outputPayloadToHeader" || key == "outputClaimToHeaders":
		return p, key + ": nothing here writes claims into headers; the service reads the token itself"
	case key != "":
		return p, key + " is not read"
	case len(p.Audiences) == 0:
		return p, "no audiences: there a token for anybody would do, here it names one of them. Add the audiences that your services have at the issuer"
	case p.URL == "" && p.Keys == "":
		return p, "neither jwksUri nor jwks: add the jwks_uri that ISSUER/.well-known/openid-configuration gives"
	}
	var why string
	p.Locations, why = istioLocations(r)
	return p, why
}

// istioLocations is where a rule looks for tokens: the two usual places, unless it
// names its own.
func istioLocations(r *node) (out []string, why string) {
	for _, h := range r.get("fromHeaders").list() {
		name, prefix := h.get("name").text(), h.get("prefix").text()
		switch {
		case h.unknown("name", "prefix") != "":
			return nil, "fromHeaders: " + h.unknown("name", "prefix") + " is not read"
		case strings.EqualFold(name, "authorization") && prefix == "Bearer ":
			out = append(out, "bearer")
		case prefix != "" || strings.EqualFold(name, "authorization"):
			return nil, fmt.Sprintf("fromHeaders %s with the prefix %q: read are Authorization with \"Bearer \", and other headers that hold the token alone", name, prefix)
		default:
			out = append(out, "header "+name)
		}
	}
	for _, name := range r.get("fromParams").texts() {
		out = append(out, "query "+name)
	}
	for _, name := range r.get("fromCookies").texts() {
		out = append(out, "cookie "+name)
	}
	if len(out) == 0 {
		out = []string{"bearer", "query access_token"}
	}
	return out, ""
}

// issuerTwice says why an issuer cannot sign for services once more.
func (b *book) issuerTwice(issuer string, services []string) string {
	for _, s := range services {
		if slices.Contains(b.issuers(s), issuer) {
			return fmt.Sprintf("issuer %q twice for %s: write one rule with the audiences of both", issuer, s)
		}
	}
	return ""
}

// issuers are those whose tokens a service takes.
func (b *book) issuers(service string) []string {
	var out []string
	for _, p := range b.providers {
		if slices.Contains(p.Services, service) {
			out = append(out, p.Issuer)
		}
	}
	return out
}

func (b *book) freeProvider(want string) string {
	return free(want, func(name string) bool {
		return slices.ContainsFunc(b.providers, func(p usertoken.Provider) bool { return p.Name == name })
	})
}

// badTokens refuses tokens that are there and not good, whatever else allows the
// request: no token is no reason to deny, one that is not good always is. The
// condition is not known of such a token, and then a deny denies.
func (b *book) badTokens(selected map[string]origin) {
	for _, w := range b.inventory.Workloads {
		issuers := b.issuers(w.Service)
		if len(issuers) == 0 || b.checked[w.Service] {
			continue
		}
		b.checked[w.Service] = true
		o := selected[w.Service]
		o.source = "a token that is not good"
		b.add(o, policy.Rule{
			Name: w.Service + "-bad-token", From: []string{"any", "anonymous"}, To: w.Service, Deny: []string{everything(w.Protocol)},
			When: "present(jwt.iss) && !(jwt.iss in " + literals(issuers) + ")",
		})
	}
}

// tokenPart is one list of values about the token of a request.
type tokenPart struct {
	key     string // of when:, or request.auth.principal
	values  []string
	negated bool
}

// isToken is true of keys about tokens of end users.
func isToken(key string) bool { return strings.HasPrefix(key, "request.auth.") }

// tokenConditions says the parts for one service: its issuers are those that
// policies select for it, and no token of another counts.
func (b *book) tokenConditions(service string, parts []tokenPart, deny bool) (out []string, why string) {
	issuers := b.issuers(service)
	if len(parts) > 0 && len(issuers) == 0 {
		return nil, "it reads tokens of end users, and no RequestAuthentication in these files says whose count there"
	}
	for _, p := range parts {
		condition, subject, why := "", "", ""
		switch claim, named := strings.CutPrefix(p.key, "request.auth.claims"); {
		case named:
			condition, subject, why = claimCondition(claim, p.values)
		case p.key == "request.auth.principal":
			condition, why = principalCondition(p.values, issuers)
			subject = "jwt.sub"
		case p.key == "request.auth.audiences":
			condition, subject = listCondition("jwt.aud", p.values), "jwt.aud"
		case p.key == "request.auth.presenter":
			condition, subject = matches("jwt.azp", p.values, false), "jwt.azp"
		default:
			why = "when " + p.key + " has no counterpart here"
		}
		switch {
		case why != "":
			return nil, why
		case p.negated:
			condition = not("present(" + subject + ") && " + wrap(condition))
		case deny:
			// What is not there matches nothing in Istio; here a deny would deny it.
			condition = "present(" + subject + ") && " + wrap(condition)
		}
		out = append(out, condition)
	}
	return out, ""
}

// principalCondition is about issuer/subject, parted at the last slash. A pattern
// of issuers is the issuers it matches.
func principalCondition(values, issuers []string) (condition, why string) {
	var any []string
	for _, v := range values {
		cut := strings.LastIndex(v, "/")
		var issuer, subject string
		switch {
		case v == "*":
			issuer, subject = "*", "*"
		case cut >= 0:
			issuer, subject = v[:cut], v[cut+1:]
		case strings.HasSuffix(v, "*"):
			issuer, subject = v, "*"
		default:
			return "", fmt.Sprintf("request principal %q: read are ISSUER/SUBJECT with a * at one end, and *", v)
		}
		if v != "*" && (v == "" || strings.Contains(v[1:max(1, len(v)-1)], "*") || strings.HasPrefix(v, "*") && strings.HasSuffix(v, "*")) {
			return "", fmt.Sprintf("request principal %q: read is a * at one end", v)
		}
		var whose []string
		for _, i := range issuers {
			if issuer == i || issuer == "*" || strings.HasPrefix(v, "*") && strings.HasSuffix(i, strings.TrimPrefix(issuer, "*")) ||
				cut < 0 && strings.HasPrefix(i, strings.TrimSuffix(issuer, "*")) {
				whose = append(whose, i)
			}
		}
		if len(whose) == 0 {
			return "", fmt.Sprintf("request principal %q: no RequestAuthentication names its issuer %q there, so it matches nobody", v, issuer)
		}
		any = append(any, "jwt.iss in "+literals(whose)+" && "+matches("jwt.sub", []string{subject}, false))
	}
	return anyOf(any), ""
}

var claimNames = regexp.MustCompile(`^(\[[^\[\]]+\])+$`)

// claimCondition is about a claim by its names in brackets. A claim of one text is
// a list of one, there and here.
func claimCondition(brackets string, values []string) (condition, subject, why string) {
	if !claimNames.MatchString(brackets) {
		return "", "", fmt.Sprintf("request.auth.claims%s: read are names in brackets, as in request.auth.claims[realm][roles]", brackets)
	}
	names := strings.Split(brackets[1:len(brackets)-1], "][")
	subject = "jwt.list(" + strings.Trim(literals(names), "[]") + ")"
	switch brackets {
	case "[scope]":
		subject = "jwt.scope"
	case "[permission]":
		return "", "", "claim permission: Istio parts it at spaces, which here is done for scope alone"
	}
	if i := slices.IndexFunc(values, func(v string) bool { return strings.Contains(v, " ") }); i >= 0 && subject == "jwt.scope" {
		return "", "", fmt.Sprintf("claim scope: %q has a space, and entries of it have none", values[i])
	}
	return listCondition(subject, values), subject, ""
}

// listCondition is that a list of texts has an entry that matches one of values.
func listCondition(subject string, values []string) string {
	if len(values) == 1 && !strings.HasPrefix(values[0], "*") && !strings.HasSuffix(values[0], "*") {
		return literal(values[0]) + " in " + subject
	}
	return subject + ".exists(v, " + matches("v", values, false) + ")"
}

// onlyHTTP is true of conditions about what a connection does not have.
func onlyHTTP(conditions []string) bool {
	return slices.ContainsFunc(conditions, func(c string) bool { return strings.Contains(c, "request.headers[") })
}
