package oidc_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kith-id/kith/internal/oidc"
)

// found is the outcome of a check in a report, the worst one; "" if it was not made.
func found(r oidc.Report, check string) string {
	worst := ""
	for _, f := range r.Findings {
		if f.Check == check && slices.Index([]string{"", "ok", "warn", "fail"}, f.Outcome) > slices.Index([]string{"", "ok", "warn", "fail"}, worst) {
			worst = f.Outcome
		}
	}
	return worst
}

func TestEachCloudTakesOurTokens(t *testing.T) {
	keys := newSigners(t)
	for _, provider := range oidc.Providers() {
		for _, alg := range []string{"ES256", "RS256"} {
			if provider == oidc.Azure && alg == "ES256" {
				continue
			}
			s := newScene(t, keys, provider)
			s.alg, s.kid = alg, map[string]string{"ES256": "e1", "RS256": "r1"}[alg]
			report, refusal := s.play()
			if report.Bad() || refusal != "" {
				t.Errorf("%s with %s: %+v\n%s", provider, alg, report.Findings, refusal)
			}
			for _, check := range []string{"issuer", "discovery", "keys", "key", "token issuer", "token audience", "subject", "algorithm", "lifetime"} {
				if got := found(report, check); got != "ok" {
					t.Errorf("%s with %s: %s is %q", provider, alg, check, got)
				}
			}
		}
	}
}

// mistake is one thing that is wrong, the check that sees it, and what the cloud
// would say.
type mistake struct {
	name     string
	provider oidc.Provider
	make     func(*scene)
	check    string
	refusal  string
}

func claim(name string, value any) func(*scene) {
	return func(s *scene) { s.claims[name] = value }
}

// serving replaces the body of the document whose path ends so.
func serving(suffix string, edit func([]byte) []byte) func(*scene) {
	return func(s *scene) {
		s.edit = func(path string, body []byte) (int, []byte) {
			if strings.HasSuffix(path, suffix) {
				body = edit(body)
			}
			return http.StatusOK, body
		}
	}
}

func without(name string) func([]byte) []byte {
	return func(body []byte) []byte {
		var object map[string]any
		_ = json.Unmarshal(body, &object)
		delete(object, name)
		out, _ := json.Marshal(object)
		return out
	}
}

func replacing(before, after string) func([]byte) []byte {
	return func(body []byte) []byte { return bytes.ReplaceAll(body, []byte(before), []byte(after)) }
}

// manyKeys is a set with another hundred keys of a kind.
func manyKeys(body []byte) []byte {
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	_ = json.Unmarshal(body, &set)
	for i := range 100 {
		more := map[string]any{}
		for name, value := range set.Keys[0] {
			more[name] = value
		}
		more["kid"] = fmt.Sprint("more", i)
		set.Keys = append(set.Keys, more)
	}
	out, _ := json.Marshal(set)
	return out
}

func down(s *scene) {
	s.edit = func(string, []byte) (int, []byte) { return http.StatusNotFound, []byte("nothing here") }
}

func longSubject(n int) func(*scene) {
	return func(s *scene) {
		s.subject = "spiffe://acme.example/" + strings.Repeat("x", n-len("spiffe://acme.example/"))
		s.claims["sub"] = s.subject
	}
}

func signedBy(alg, kid string) func(*scene) {
	return func(s *scene) { s.alg, s.kid = alg, kid }
}

func ended(s *scene) {
	s.claims["iat"], s.claims["exp"] = time.Now().Add(-time.Hour).Unix(), time.Now().Add(-50*time.Minute).Unix()
}

func noIssuedAt(s *scene) { delete(s.claims, "iat") }

func expecting(audience string) func(*scene) { return func(s *scene) { s.audience = audience } }

func mistakes() []mistake {
	const discovery, keySet = oidc.DiscoveryPath, oidc.KeysPath
	slash := claim("iss", issuer+"/")
	long := strings.Repeat("a", 300)
	return []mistake{
		{"a port", oidc.AWS, func(s *scene) { s.issuer = issuer + ":8443"; s.claims["iss"] = s.issuer }, "issuer", "Invalid Open ID Connect Provider URL"},
		{"a long issuer", oidc.AWS, func(s *scene) { s.issuer = issuer + "/" + long; s.claims["iss"] = s.issuer }, "issuer", "length less than or equal to 255"},
		{"a slash", oidc.AWS, slash, "token issuer", "No OpenIDConnect provider found in your account for " + issuer + "/"},
		{"another audience", oidc.AWS, claim("aud", "sts.amazon.com"), "token audience", "Incorrect token audience"},
		{"a long audience", oidc.AWS, expecting(long), "audience", "length less than or equal to 255"},
		{"azp", oidc.AWS, claim("azp", "somebody"), "token claims", "Incorrect token audience"},
		{"a long subject", oidc.AWS, longSubject(256), "subject", "Not authorized to perform sts:AssumeRoleWithWebIdentity"},
		{"a huge token", oidc.AWS, claim("pad", strings.Repeat("a", 16_000)), "token size", "length less than or equal to 20000"},
		{"EdDSA", oidc.AWS, signedBy("EdDSA", "d1"), "algorithm", "algorithm is not supported"},
		{"an unpublished key", oidc.AWS, signedBy("ES256", "gone"), "key", "Token signature invalid"},
		{"another's key", oidc.AWS, serving(keySet, replacing(`"kid":"e1"`, `"kid":"e2"`)), "key", "Token signature invalid"},
		{"101 keys", oidc.AWS, serving(keySet, manyKeys), "keys", "Couldn't retrieve verification key from your identity provider"},
		{"no claims_supported", oidc.AWS, serving(discovery, without("claims_supported")), "discovery", "Couldn't retrieve verification key"},
		{"no subject types", oidc.AWS, serving(discovery, without("subject_types_supported")), "discovery", "Couldn't retrieve verification key"},
		{"no documents", oidc.AWS, down, "reach", "Couldn't retrieve verification key"},
		{"an old token", oidc.AWS, ended, "lifetime", "Token expired"},
		{"no iat", oidc.AWS, noIssuedAt, "lifetime", "Missing a required claim: iat"},

		{"a slash", oidc.GCP, slash, "token issuer", "does not match the expected ones"},
		{"another audience", oidc.GCP, claim("aud", "//iam.googleapis.com/other"), "token audience", "does not match the expected audience"},
		{"a long audience", oidc.GCP, expecting(long), "audience", "256"},
		{"a long path", oidc.GCP, longSubject(160), "subject", "google.subject exceeds the 127 bytes limit"},
		{"RS384", oidc.GCP, signedBy("RS384", "r1"), "algorithm", "Invalid ID Token signature"},
		{"a day and more", oidc.GCP, claim("exp", time.Now().Add(25*time.Hour).Unix()), "lifetime", "at most 24 hours"},
		{"certificates in keys", oidc.GCP, serving(keySet, replacing(`"kty":"EC"`, `"kty":"EC","x5c":["AA=="]`)), "keys", "Input JWK is not in a valid json format"},
		{"no documents", oidc.GCP, down, "reach", "Error connecting to the given credential's issuer"},
		{"no iat", oidc.GCP, noIssuedAt, "lifetime", "iat"},
		{"an old token", oidc.GCP, ended, "lifetime", "stale to sign-in"},

		{"ES256", oidc.Azure, signedBy("ES256", "e1"), "algorithm", "AADSTS5002738"},
		{"a slash", oidc.Azure, slash, "token issuer", "AADSTS700211"},
		{"another audience", oidc.Azure, func(s *scene) { s.audience = "orders"; s.claims["aud"] = "orders" }, "audience", "AADSTS700212"},
		{"two audiences", oidc.Azure, claim("aud", []string{oidc.AzureAudience, "orders"}), "token audience", "AADSTS700212"},
		{"a long subject", oidc.Azure, longSubject(601), "subject", "limited to 600"},
		{"no documents", oidc.Azure, down, "reach", "AADSTS50166"},
		{"an old token", oidc.Azure, ended, "lifetime", "AADSTS700024"},
		{"another's key", oidc.Azure, serving(keySet, replacing(`"kid":"r1"`, `"kid":"r2"`)), "key", "AADSTS50013"},
		{"no RS256", oidc.Azure, serving(discovery, replacing(`"RS256",`, "")), "discovery", ""},

		{"another issuer in discovery", oidc.Vault, serving(discovery, replacing(`"issuer":"`+issuer, `"issuer":"https://other.example`)), "discovery", "error checking oidc discovery URL"},
		{"a slash", oidc.Vault, slash, "token issuer", "invalid issuer (iss) claim"},
		{"another audience", oidc.Vault, claim("aud", "orders"), "token audience", "invalid audience (aud) claim"},
		{"no documents", oidc.Vault, down, "reach", "error checking oidc discovery URL"},
		{"no iat", oidc.Vault, noIssuedAt, "lifetime", "invalid not before (nbf) claim: token not yet valid"},
		{"an old token", oidc.Vault, ended, "lifetime", "token is expired"},
		{"an unpublished key", oidc.Vault, signedBy("ES256", "gone"), "key", "no known key successfully validated the token signature"},
	}
}

// Each mistake is seen here before the cloud says it, in its own words.
func TestEachMistakeIsSeenBeforeTheCloudSaysIt(t *testing.T) {
	keys := newSigners(t)
	for _, m := range mistakes() {
		s := newScene(t, keys, m.provider)
		m.make(s)
		report, refusal := s.play()
		if got := found(report, m.check); got != "fail" || !report.Bad() {
			t.Errorf("%s, %s: %s is %q: %+v", m.provider, m.name, m.check, got, report.Findings)
		}
		for _, f := range report.Findings {
			if f.Outcome == "fail" && f.Check == m.check && f.Detail == "" {
				t.Errorf("%s, %s: %s fails without a word", m.provider, m.name, m.check)
			}
		}
		if m.refusal != "" && !strings.Contains(strings.ReplaceAll(refusal, "&#39;", "'"), m.refusal) {
			t.Errorf("%s, %s: the cloud says %q, want %q", m.provider, m.name, refusal, m.refusal)
		}
	}
}

// A SPIFFE ID that is too long for Google with its trust domain, and not without, is
// mapped by the command that doctor prints.
func TestGoogleMapsThePathOfALongSubject(t *testing.T) {
	s := newScene(t, newSigners(t), oidc.GCP)
	longSubject(140)(s)
	s.mapping = func(subject string) string { return strings.TrimPrefix(subject, "spiffe://acme.example/") }
	report, refusal := s.play()
	if found(report, "subject") != "warn" || report.Bad() || refusal != "" {
		t.Errorf("got %+v\n%s", report.Findings, refusal)
	}
	if create := report.Commands[1]; !strings.Contains(create, `--attribute-mapping='google.subject=assertion.sub.extract('\''spiffe://acme.example/{path}'\'')'`) {
		t.Errorf("command: %s", create)
	}
}

// A CA that the public web does not know is no error where the provider can be told
// of it.
func TestPrivateCAIsSaidWithWhatToDo(t *testing.T) {
	keys := newSigners(t)
	for provider, want := range map[oidc.Provider]string{oidc.AWS: "thumbprint", oidc.Vault: "oidc_discovery_ca_pem", oidc.GCP: "public CA", oidc.Azure: "public CA"} {
		report, _ := newScene(t, keys, provider).play()
		var text string
		for _, f := range report.Findings {
			if f.Check == "reach" && f.Outcome == "warn" {
				text = f.Detail + f.Do
			}
		}
		if !strings.Contains(text, want) {
			t.Errorf("%s: got %q, want %s", provider, text, want)
		}
		if provider == oidc.AWS && !strings.Contains(report.Commands[0], " --thumbprint-list ") {
			t.Errorf("command: %s", report.Commands[0])
		}
	}
}

func TestCommandsAreReadyToType(t *testing.T) {
	setup := oidc.Setup{Issuer: issuer, Audience: "sts.amazonaws.com", Subject: subject, Algorithms: []string{"RS256", "ES256"}}
	google := setup
	google.Resource = "projects/123/locations/global/workloadIdentityPools/kith/providers/acme"
	google.Audience = oidc.UsualAudience(oidc.GCP, google.Resource)
	hash := setup
	hash.Audience = "vault"
	for provider, tc := range map[oidc.Provider]struct {
		setup oidc.Setup
		want  []string
	}{
		oidc.AWS: {setup, []string{
			"aws iam create-open-id-connect-provider --url https://oidc.acme.example --client-id-list sts.amazonaws.com",
			`aws iam create-role --role-name ROLE --assume-role-policy-document '{"Version":"2012-10-17","Statement":[{"Effect":"Allow",` +
				`"Principal":{"Federated":"arn:aws:iam::ACCOUNT:oidc-provider/oidc.acme.example"},"Action":"sts:AssumeRoleWithWebIdentity",` +
				`"Condition":{"StringEquals":{"oidc.acme.example:aud":"sts.amazonaws.com","oidc.acme.example:sub":"spiffe://acme.example/vms/orders"}}}]}'`,
		}},
		oidc.GCP: {google, []string{
			"gcloud iam workload-identity-pools create kith --location=global",
			"gcloud iam workload-identity-pools providers create-oidc acme --location=global --workload-identity-pool=kith --issuer-uri=https://oidc.acme.example" +
				" --allowed-audiences=https://iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/kith/providers/acme --attribute-mapping=google.subject=assertion.sub",
			"gcloud iam service-accounts add-iam-policy-binding ACCOUNT@PROJECT.iam.gserviceaccount.com --role=roles/iam.workloadIdentityUser" +
				" --member=principal://iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/kith/subject/spiffe://acme.example/vms/orders",
		}},
		oidc.Azure: {setup, []string{
			`az ad app federated-credential create --id APP_ID --parameters '{"name":"kith-vms-orders","issuer":"https://oidc.acme.example",` +
				`"subject":"spiffe://acme.example/vms/orders","audiences":["api://AzureADTokenExchange"]}'`,
		}},
		oidc.Vault: {hash, []string{
			"vault auth enable jwt",
			"vault write auth/jwt/config oidc_discovery_url=https://oidc.acme.example bound_issuer=https://oidc.acme.example jwt_supported_algs=RS256,ES256",
			"vault write auth/jwt/role/ROLE role_type=jwt bound_audiences=vault bound_subject=spiffe://acme.example/vms/orders user_claim=sub token_policies=POLICY token_ttl=15m",
		}},
	} {
		if diff := cmp.Diff(tc.want, oidc.Commands(provider, tc.setup)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", provider, diff)
		}
	}
}
