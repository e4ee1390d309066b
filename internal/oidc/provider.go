package oidc

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Provider is a receiver of tokens whose limits are known.
type Provider string

// The providers.
const (
	AWS   Provider = "aws"
	GCP   Provider = "gcp"
	Azure Provider = "azure"
	Vault Provider = "vault"
)

// Providers is all of them.
func Providers() []Provider { return []Provider{AWS, GCP, Azure, Vault} }

// AzureAudience is the one audience of federated credentials of Microsoft Entra.
const AzureAudience = "api://AzureADTokenExchange"

// limits is what a provider documents. 0 is no limit.
type limits struct {
	name         string   // as its users call it
	audience     string   // what is usual; empty: none is
	onlyAudience bool     // and nothing else
	algorithms   []string // of tokens
	issuerBytes  int
	noPort       bool // in the issuer
	audienceSize int
	subjectBytes int
	tokenBytes   int
	lifetime     time.Duration
	keysEach     int // of each kind
	plainKeys    bool
	offline      string // how keys get there without the issuer being reached; empty: not
}

// of is the limits of a provider, from its own documentation.
func of(p Provider) limits {
	rsaAndEC := []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"}
	switch p {
	case AWS: // IAM CreateOpenIDConnectProvider, STS AssumeRoleWithWebIdentity
		return limits{
			name: "AWS", audience: "sts.amazonaws.com", algorithms: rsaAndEC,
			issuerBytes: 255, noPort: true, audienceSize: 255, subjectBytes: 255, tokenBytes: 20_000, keysEach: 100,
		}
	case GCP: // IAM workloadIdentityPools.providers, STS token
		return limits{
			name: "Google Cloud", algorithms: []string{"RS256", "ES256"},
			audienceSize: 256, subjectBytes: 127, lifetime: 24 * time.Hour, plainKeys: true,
			offline: "upload the keys to Google after each rotation, daily: gcloud iam workload-identity-pools providers update-oidc … --jwk-json-path=jwks.json",
		}
	case Azure: // Graph federatedIdentityCredential
		return limits{
			name: "Azure", audience: AzureAudience, onlyAudience: true, algorithms: []string{"RS256"},
			issuerBytes: 600, audienceSize: 600, subjectBytes: 600,
		}
	case Vault: // auth/jwt
		return limits{
			name: "Vault", audience: "vault", algorithms: append(rsaAndEC, "PS256", "PS384", "PS512"),
			offline: "Vault itself must reach it; a private CA goes into oidc_discovery_ca_pem",
		}
	}
	return limits{}
}

// UsualAudience is the audience a provider expects unless told otherwise, given
// the full name of the provider resource where there is one (Google).
func UsualAudience(p Provider, resource string) string {
	if p == GCP && resource != "" {
		return "https://iam.googleapis.com/" + strings.TrimPrefix(resource, "/")
	}
	return of(p).audience
}

// Setup is what is typed at a provider.
type Setup struct {
	Issuer     string
	Audience   string
	Subject    string
	Resource   string   // projects/N/locations/global/workloadIdentityPools/POOL/providers/NAME
	Thumbprint string   // SHA-1 of a CA that the public web does not know
	Algorithms []string // of the keys
}

// Commands are the provider's own commands, in their order. Names in capitals are
// the reader's to fill in.
func Commands(p Provider, s Setup) []string {
	switch p {
	case AWS:
		return awsCommands(s)
	case GCP:
		return gcpCommands(s)
	case Azure:
		return azureCommands(s)
	case Vault:
		return vaultCommands(s)
	}
	return nil
}

func awsCommands(s Setup) []string {
	create := "aws iam create-open-id-connect-provider --url " + quote(s.Issuer) + " --client-id-list " + quote(s.Audience)
	if s.Thumbprint != "" {
		create += " --thumbprint-list " + s.Thumbprint
	}
	name := strings.TrimPrefix(s.Issuer, "https://") // as AWS names it in ARNs and conditions
	trust := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Federated":"arn:aws:iam::ACCOUNT:oidc-provider/%s"},`+
		`"Action":"sts:AssumeRoleWithWebIdentity","Condition":{"StringEquals":{"%s:aud":%q,"%s:sub":%q}}}]}`, name, name, s.Audience, name, s.Subject)
	return []string{create, "aws iam create-role --role-name ROLE --assume-role-policy-document " + quote(trust)}
}

func gcpCommands(s Setup) []string {
	project, pool, name := "PROJECT_NUMBER", "POOL", "PROVIDER"
	if parts := strings.Split(s.Resource, "/"); len(parts) == 8 {
		project, pool, name = parts[1], parts[5], parts[7]
	}
	mapping, subject := "google.subject=assertion.sub", s.Subject
	if len(subject) > of(GCP).subjectBytes {
		if prefix, rest, ok := splitSubject(subject); ok {
			mapping, subject = fmt.Sprintf("google.subject=assertion.sub.extract('%s/{path}')", prefix), rest
		}
	}
	return []string{
		"gcloud iam workload-identity-pools create " + pool + " --location=global",
		"gcloud iam workload-identity-pools providers create-oidc " + name + " --location=global --workload-identity-pool=" + pool +
			" --issuer-uri=" + quote(s.Issuer) + " --allowed-audiences=" + quote(s.Audience) + " --attribute-mapping=" + quote(mapping),
		"gcloud iam service-accounts add-iam-policy-binding ACCOUNT@PROJECT.iam.gserviceaccount.com --role=roles/iam.workloadIdentityUser" +
			" --member=" + quote("principal://iam.googleapis.com/projects/"+project+"/locations/global/workloadIdentityPools/"+pool+"/subject/"+subject),
	}
}

// splitSubject parts a SPIFFE ID after its trust domain.
func splitSubject(subject string) (prefix, rest string, ok bool) {
	u, err := url.Parse(subject)
	if err != nil || len(u.Path) < 2 {
		return "", "", false
	}
	return u.Scheme + "://" + u.Host, u.Path[1:], true
}

func azureCommands(s Setup) []string {
	return []string{fmt.Sprintf("az ad app federated-credential create --id APP_ID --parameters %s",
		quote(fmt.Sprintf(`{"name":%q,"issuer":%q,"subject":%q,"audiences":[%q]}`, credentialName(s.Subject), s.Issuer, s.Subject, AzureAudience)))}
}

// credentialName is a name Entra takes: 3 to 120 letters, digits, - and _.
func credentialName(subject string) string {
	_, rest, _ := splitSubject(subject)
	name := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z' {
			return r
		}
		return '-'
	}, "kith-"+rest)
	return name[:min(len(name), 120)]
}

func vaultCommands(s Setup) []string {
	algorithms := slices.Clone(s.Algorithms)
	if len(algorithms) == 0 {
		algorithms = []string{rs256, es256}
	}
	return []string{
		"vault auth enable jwt",
		"vault write auth/jwt/config oidc_discovery_url=" + quote(s.Issuer) + " bound_issuer=" + quote(s.Issuer) + " jwt_supported_algs=" + strings.Join(algorithms, ","),
		"vault write auth/jwt/role/ROLE role_type=jwt bound_audiences=" + quote(s.Audience) + " bound_subject=" + quote(s.Subject) +
			" user_claim=sub token_policies=POLICY token_ttl=15m",
	}
}

// quote makes one word of a text for a shell.
func quote(text string) string {
	plain := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("-_./:@=,%+", r)
	}
	if text != "" && strings.IndexFunc(text, func(r rune) bool { return !plain(r) }) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
