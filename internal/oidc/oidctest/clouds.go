package oidctest

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// AWS is IAM's CreateOpenIDConnectProvider and STS's AssumeRoleWithWebIdentity, as
// their Query API has them, for one account with one role.
type AWS struct {
	Client  *http.Client // how it reaches issuers
	Subject string       // that the role's trust policy names

	clients map[string][]string // audiences by issuer
}

type awsError struct {
	XMLName xml.Name `xml:"ErrorResponse"`
	Code    string   `xml:"Error>Code"`
	Message string   `xml:"Error>Message"`
}

// ServeHTTP implements http.Handler.
func (a *AWS) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	var code, message string
	switch action := r.Form.Get("Action"); action {
	case "CreateOpenIDConnectProvider":
		code, message = a.create(r.Form)
	case "AssumeRoleWithWebIdentity":
		code, message = a.assume(r.Form.Get("WebIdentityToken"))
	default:
		code, message = "InvalidAction", "Could not find operation "+action
	}
	rw.Header().Set("Content-Type", "text/xml")
	if code != "" {
		rw.WriteHeader(http.StatusBadRequest)
		_ = xml.NewEncoder(rw).Encode(awsError{Code: code, Message: message})
		return
	}
	fmt.Fprint(rw, "<Response><Credentials><AccessKeyId>ASIATEST</AccessKeyId></Credentials></Response>")
}

func (a *AWS) create(form url.Values) (code, message string) {
	issuer, audience := form.Get("Url"), form.Get("ClientIDList.member.1")
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "":
		return "ValidationError", "Invalid Open ID Connect Provider URL"
	case u.Port() != "":
		return "ValidationError", "Invalid Open ID Connect Provider URL: port is not allowed"
	case len(issuer) > 255:
		return "ValidationError", "1 validation error detected: Value at 'url' failed to satisfy constraint: Member must have length less than or equal to 255"
	case len(audience) > 255:
		return "ValidationError", "1 validation error detected: Value at 'clientIDList' failed to satisfy constraint: Member must satisfy constraint: [Member must have length less than or equal to 255, Member must have length greater than or equal to 1]"
	case a.clients[issuer] != nil:
		return "EntityAlreadyExists", "Provider with url " + issuer + " already exists."
	}
	if a.clients == nil {
		a.clients = map[string][]string{}
	}
	a.clients[issuer] = []string{audience}
	return "", ""
}

func (a *AWS) assume(text string) (code, message string) {
	if len(text) > 20_000 {
		return "ValidationError", "1 validation error detected: Value at 'webIdentityToken' failed to satisfy constraint: Member must have length less than or equal to 20000"
	}
	t, err := read(text)
	if err != nil {
		return "InvalidIdentityToken", "The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)"
	}
	audiences, known := a.clients[t.Issuer]
	if !known {
		return "InvalidIdentityToken", "No OpenIDConnect provider found in your account for " + t.Issuer
	}
	client := t.Audience
	if t.AuthorizedParty != "" {
		client = []string{t.AuthorizedParty}
	}
	m, keys, err := discover(a.Client, t.Issuer)
	count := map[string]int{}
	for _, key := range keys {
		count[key.Kty]++
	}
	switch {
	case err != nil || m.Issuer != t.Issuer || m.Claims == nil || m.Responses == nil || m.Subjects == nil || m.Algorithms == nil || count["RSA"] > 100 || count["EC"] > 100:
		return "InvalidIdentityToken", "Couldn't retrieve verification key from your identity provider, please reference AssumeRoleWithWebIdentity documentation for requirements"
	case !slices.Contains([]string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"}, t.Algorithm):
		return "InvalidIdentityToken", "Token signature algorithm is not supported"
	case !t.verifiedBy(keys):
		return "InvalidIdentityToken", "Token signature invalid"
	case !slices.ContainsFunc(client, func(name string) bool { return slices.Contains(audiences, name) }):
		return "InvalidIdentityToken", "Incorrect token audience"
	case t.IssuedAt.IsZero():
		return "InvalidIdentityToken", "Missing a required claim: iat"
	case time.Now().After(t.Expires):
		return "ExpiredTokenException", "Token expired: current date/time must be before the expiration date/time"
	case len(t.Subject) > 255 || t.Subject != a.Subject:
		return "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"
	}
	return "", ""
}

// GCP is the token exchange of Google's STS, for one provider of a pool.
type GCP struct {
	Client   *http.Client
	Issuer   string
	Audience string // allowed; what IAM takes at most is 256 bytes
	Mapping  func(subject string) string
}

// ServeHTTP implements http.Handler.
func (g *GCP) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	code, text := g.exchange(r.Form.Get("subject_token"))
	if code != "" {
		answer(rw, http.StatusBadRequest, map[string]string{"error": code, "error_description": text})
		return
	}
	answer(rw, http.StatusOK, map[string]string{"access_token": "ya29.test", "token_type": "Bearer"})
}

func (g *GCP) exchange(text string) (code, description string) {
	t, err := read(text)
	if err != nil {
		return "invalid_request", "Unable to parse the ID Token."
	}
	if t.Issuer != g.Issuer {
		return "invalid_grant", fmt.Sprintf("The issuer in ID Token %s does not match the expected ones: %s.", t.Issuer, g.Issuer)
	}
	if len(g.Audience) > 256 {
		return "invalid_request", "allowed audiences may have 256 characters at most"
	}
	if !slices.Contains(t.Audience, g.Audience) {
		return "invalid_grant", fmt.Sprintf("The audience in ID Token [%s] does not match the expected audience %s.", strings.Join(t.Audience, ", "), g.Audience)
	}
	m, keys, err := discover(g.Client, t.Issuer)
	if err != nil || m.Issuer != t.Issuer {
		return "invalid_grant", "Error connecting to the given credential's issuer."
	}
	for _, key := range keys {
		if key.X5c != nil || key.X5t != "" {
			return "invalid_grant", "Input JWK is not in a valid json format"
		}
	}
	subject := t.Subject
	if g.Mapping != nil {
		subject = g.Mapping(subject)
	}
	switch {
	case t.Algorithm != "RS256" && t.Algorithm != "ES256" || !t.verifiedBy(keys):
		return "invalid_grant", "Invalid ID Token signature."
	case t.IssuedAt.IsZero():
		return "invalid_grant", "ID Token is missing required claim: iat."
	case time.Now().After(t.Expires):
		return "invalid_grant", fmt.Sprintf("ID Token in %s is stale to sign-in.", t.Expires.Format(time.RFC3339))
	case t.Expires.Sub(t.IssuedAt) > 24*time.Hour:
		return "invalid_grant", "The lifetime of ID Token must be at most 24 hours."
	case len(subject) > 127:
		return "invalid_request", "The size of mapped attribute google.subject exceeds the 127 bytes limit. Either modify your attribute mapping or the incoming assertion to produce a mapped attribute that is less than 127 bytes."
	}
	return "", ""
}

// Azure is the token endpoint of Microsoft Entra for one application with one
// federated credential.
type Azure struct {
	Client          *http.Client
	Issuer, Subject string
}

const azureAudience = "api://AzureADTokenExchange"

// ServeHTTP implements http.Handler.
func (a *Azure) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	if text := a.login(r.Form.Get("client_assertion")); text != "" {
		answer(rw, http.StatusUnauthorized, map[string]string{"error": "invalid_client", "error_description": text})
		return
	}
	answer(rw, http.StatusOK, map[string]string{"access_token": "eyJ.test", "token_type": "Bearer"})
}

func (a *Azure) login(text string) string {
	t, err := read(text)
	if err != nil {
		return "AADSTS50027: JWT token is invalid or malformed."
	}
	switch {
	case len(a.Issuer) > 600 || len(a.Subject) > 600:
		return "Request_BadRequest: Invalid value specified for property of resource 'FederatedIdentityCredential': length is limited to 600."
	case t.Issuer != a.Issuer:
		return fmt.Sprintf("AADSTS700211: No matching federated identity record found for presented assertion issuer '%s'. Check your federated identity credential Subject, Audience and Issuer against the presented assertion.", t.Issuer)
	case len(t.Audience) != 1 || t.Audience[0] != azureAudience:
		return fmt.Sprintf("AADSTS700212: No matching federated identity record found for presented assertion audience '%s'. Check your federated identity credential Subject, Audience and Issuer against the presented assertion.", strings.Join(t.Audience, ","))
	case t.Subject != a.Subject:
		return fmt.Sprintf("AADSTS700213: No matching federated identity record found for presented assertion subject '%s'. Check your federated identity credential Subject, Audience and Issuer against the presented assertion.", t.Subject)
	case time.Now().After(t.Expires):
		return "AADSTS700024: Client assertion is not within its valid time range."
	}
	m, keys, err := discover(a.Client, t.Issuer)
	switch {
	case err != nil || m.Issuer != t.Issuer:
		return "AADSTS50166: Request to External OIDC endpoint failed."
	case t.Algorithm != "RS256":
		return "AADSTS5002738: Invalid JWT token. '" + t.Algorithm + "' is not a supported signature algorithm. Supported signing algorithms are: 'RS256'"
	case !t.verifiedBy(keys):
		return "AADSTS50013: Assertion failed signature validation."
	}
	return ""
}
