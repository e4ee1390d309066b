// Package config reads the two kinds of file Kith has: kith.yaml, the
// configuration of a process, and applied state (nodes, identities, services,
// rules). It checks form and names the line; what state means is for registry
// and policy to say.
package config

import "time"

//go:generate env KITH_UPDATE=1 go test -count=1 -run TestReferenceIsCurrent .

// File is kith.yaml, the configuration of one host's processes. The comment of
// each field is its manual; docs/config.md is generated from them.
type File struct {
	// TrustDomain is the name all identities of this installation share, such
	// as acme.example. The server needs it at its first start and cannot change
	// it afterwards; agents learn theirs when they join.
	TrustDomain string `yaml:"trust_domain"`
	// Log is how every process on this host logs, always to standard error.
	Log Log `yaml:"log"`
	// Server is read by `kith server`.
	Server Server `yaml:"server"`
	// Agent is read by `kith agent` and `kith join`.
	Agent Agent `yaml:"agent"`
	// Survive says what the installation must live through.
	Survive Survive `yaml:"survive"`
	// Features turns on what its standard calls incubating: form and meaning may
	// change with it.
	Features Features `yaml:"features"`
}

// Features are off unless they are turned on.
type Features struct {
	// Broker serves the SPIFFE Broker API on each agent for those that
	// agent.broker names (docs/broker.md).
	Broker bool `yaml:"broker"`
	// WIT is the WIT profile of the SPIFFE Workload API and WIMSE: identities as
	// tokens that are bound to a key, for load balancers that end mutual TLS. The
	// server issues WIT-SVIDs, the agent hands them out; each reads its own file.
	WIT bool `yaml:"wit"`
}

// Log is the log's level and form.
type Log struct {
	// Level is the least important kind of line that is written: debug, info,
	// warn or error.
	Level Level `yaml:"level"`
	// Format is text for people or json for collectors.
	Format Format `yaml:"format"`
}

// Server configures the control plane.
type Server struct {
	// Name is this server's name in its own identity, `/kith/server/NAME`.
	// Empty: the host's name. Letters, digits, '.', '_' and '-'.
	Name string `yaml:"name"`
	// Listen is the host:port agents connect to. One port serves admission
	// (pinned TLS) and admitted nodes (mutual TLS).
	Listen string `yaml:"listen"`
	// Address is the host:port written into join lines, as agents reach it.
	// Empty: this host's name and the port of listen.
	Address string `yaml:"address"`
	// Metrics is the host:port of /metrics and /healthz, plain HTTP without
	// authentication: keep it on loopback or a private network. Empty: none.
	Metrics string `yaml:"metrics"`
	// Socket is the path of the admin socket, at most 107 bytes. Empty:
	// admin.sock in the run directory.
	Socket string `yaml:"socket"`
	// AdminListen is the host:port where admins elsewhere connect, by mutual TLS
	// with an admin SVID (kith ids admins); a listener apart from the nodes', so
	// that a firewall can tell them apart. Empty: none, and administration is by
	// the admin socket only. The usual port is 8444.
	AdminListen string `yaml:"admin_listen"`
	// KEKFile holds the 32-byte key that seals the root key in the store, mode
	// 0400. Empty: kek in the state directory, made at the first start. Keep a
	// copy elsewhere: without it a backup cannot be opened.
	KEKFile string `yaml:"kek_file"`
	// RS256Audiences names the audiences whose JWT-SVIDs are signed with RS256
	// instead of ES256: receivers that read nothing else, such as
	// `sts.amazonaws.com`. Names are exact; a token for several audiences is
	// signed with RS256 if one is listed. The first one makes RSA keys, which
	// sign once every live node knows them. Each server needs the same list.
	RS256Audiences []string `yaml:"rs256_audiences"`
	// Audit is how much of the record of deeds, audit.log in the state directory,
	// is kept.
	Audit Audit `yaml:"audit"`
	// Federation is how bundles are exchanged with other trust domains; with
	// whom is applied state (`kith federate`).
	Federation Federation `yaml:"federation"`
	// OIDC publishes the keys of JWT-SVIDs for AWS, Google Cloud, Azure, Vault and
	// whoever else verifies tokens by OpenID Connect Discovery (docs/oidc.md).
	OIDC OIDC `yaml:"oidc"`
}

// OIDC makes the trust domain an OpenID Connect issuer. Each server needs the
// same issuer; all of them serve the same keys.
type OIDC struct {
	// Issuer is the https URL that tokens name (claim `iss`), without a slash at its
	// end, such as `https://oidc.acme.example`; receivers append
	// `/.well-known/openid-configuration` to it. AWS takes no port in it. Empty:
	// tokens name no issuer. With one, tokens for `api://AzureADTokenExchange` are
	// signed with RS256, which is all that Azure reads.
	Issuer string `yaml:"issuer"`
	// Web is the listener for the world, with a certificate for the issuer's host.
	Web Web `yaml:"web"`
	// Behind is a listener in plain HTTP, for a reverse proxy on this host that ends
	// TLS: host:port on loopback, or unix: and the path of a socket. Empty: none.
	Behind string `yaml:"behind"`
}

// Audit bounds the audit log.
type Audit struct {
	// FileSize is how large one file becomes before the next one begins, from
	// 64KiB to 1GiB. An issued SVID takes some 600 bytes.
	FileSize Size `yaml:"file_size"`
	// Files is how many files there are at most, from 2 to 1000. The oldest goes
	// when there would be more, and the log says so; copy it before if you must
	// keep it. `kith log verify` checks what is there.
	Files int `yaml:"files"`
}

// Federation configures the exchange of bundles with other trust domains.
type Federation struct {
	// SPIFFEListen is the host:port of this trust domain's bundle endpoint, for
	// others that know it by its SVID (profile https_spiffe). It gives public keys
	// and asks nobody who they are. Empty: none. The usual port is 8443.
	SPIFFEListen string `yaml:"spiffe_listen"`
	// Web is the bundle endpoint for others that know it by a certificate of the
	// web (profile https_web).
	Web Web `yaml:"web"`
	// CAFile is a PEM file of CAs that other endpoints of profile https_web may
	// have their certificate from, besides those of this host.
	CAFile string `yaml:"ca_file"`
	// Allow lifts, for networks such as 127.0.0.0/8, the refusal to fetch bundles
	// from this host, its links and the metadata services of clouds. Other private
	// networks need not be listed.
	Allow []string `yaml:"allow"`
}

// Web is a listener with a certificate of the web.
type Web struct {
	// Listen is the host:port. Empty: none.
	Listen string `yaml:"listen"`
	// CertFile holds the certificate chain in PEM, leaf first. It and key_file
	// are read again when they change; what cannot be used keeps the former.
	CertFile string `yaml:"cert_file"`
	// KeyFile holds the certificate's private key in PEM.
	KeyFile string `yaml:"key_file"`
	// ACME obtains and renews the certificate, in place of the two files.
	ACME ACME `yaml:"acme"`
}

// ACME is how a certificate is obtained from an ACME CA, by TLS-ALPN-01: the CA
// connects to port 443 of the domain, which must lead to the listener.
type ACME struct {
	// Domain is the DNS name of the certificate. Empty: no ACME.
	Domain string `yaml:"domain"`
	// Email is whom the CA may write to. Empty: nobody.
	Email string `yaml:"email"`
	// Directory is the URL of the CA's directory. Empty: Let's Encrypt.
	Directory string `yaml:"directory"`
	// CAFile holds the CAs, in PEM, that the directory's own certificate may be
	// from, besides those of this host: for a CA of your own.
	CAFile string `yaml:"ca_file"`
	// AcceptTerms must be true: that you agree to the CA's terms of service.
	AcceptTerms bool `yaml:"accept_terms"`
}

// Agent configures the node's agent.
type Agent struct {
	// Server is the host:port of the server. Empty: the one in the join line.
	Server string `yaml:"server"`
	// Pin is the server's CA pin, sha256- and 64 hex digits. Empty: the one in the
	// join line. A server that cannot show this root is refused.
	Pin string `yaml:"pin"`
	// Advertise is the address (no port) under which other nodes reach what is
	// exposed on this one. Empty: the local address used to reach the server.
	Advertise string `yaml:"advertise"`
	// Metrics is the host:port of /metrics and /healthz, plain HTTP without
	// authentication: keep it on loopback or a private network. Empty: none.
	Metrics string `yaml:"metrics"`
	// Socket is the path of the socket workloads connect to, at most 107 bytes.
	// Empty: agent.sock in the run directory.
	Socket string `yaml:"socket"`
	// AuthzListen is a port of loopback, such as 127.0.0.1:9190, where proxies ask that
	// cannot ask on authz.sock: Traefik (docs/files.md). Which process asks is found
	// by the connection it holds. Empty: none.
	AuthzListen string `yaml:"authz_listen"`
	// AuthZENURL is where AuthZEN clients ask by https, such as https://pdp.example:8443,
	// if a TLS proxy of yours passes that on to authz.sock or authz_listen
	// (docs/authzen.md). It is told at /.well-known/authzen-configuration; elsewhere it
	// changes nothing. Empty: nothing is told there.
	AuthZENURL string `yaml:"authzen_url"`
	// KEKFile holds the 32-byte key that seals what the agent keeps of itself and
	// its workloads, mode 0400, made when it is missing. Keep it outside the state
	// directory, or it guards nothing. What lies there from before is sealed at the
	// next start; after that plain files are refused. A seal does not say that a file
	// is the newest: a whole older state counts until a server is heard. Empty: files
	// of mode 0600, not sealed.
	KEKFile string `yaml:"kek_file"`
	// UserTokens says where the keys of providers (kith ids providers) may be
	// fetched. Public https addresses always may.
	UserTokens UserTokens `yaml:"user_tokens"`
	// Kubernetes is the kubelet of this node, for brokers that refer to pods and the
	// identity rules that ask for workload.k8s.* (docs/kubernetes.md).
	Kubernetes Kubernetes `yaml:"kubernetes"`
	// Broker says who may fetch SVIDs on behalf of other workloads of this node; it
	// needs features.broker.
	Broker Broker `yaml:"broker"`
	// DecisionLog is where the decisions of this node's enforcement points are
	// kept: every denial, and allows by share. None of the three sinks: nowhere.
	DecisionLog DecisionLog `yaml:"decision_log"`
	// Documents are where applications that were written for OPA look for their
	// decisions in its data API, besides below kith; see authzen.md.
	Documents []Document `yaml:"documents"`
}

// Document is a package of OPA's tree. It holds allow, true or false, and decision,
// an object that says why.
type Document struct {
	// Path is where it is, such as httpapi/authz for /v1/data/httpapi/authz. None is
	// below another one or below kith.
	Path string `yaml:"path"`
	// Service is what the application answers for. Empty: its only one.
	Service string `yaml:"service"`
	// Input says where things are in the application's input. Left out: as below
	// kith, or as OPA's Envoy plugin has it.
	Input DocumentInput `yaml:"input"`
}

// DocumentInput names members of an input, with dots between: request.http.method.
// What is not named is not looked at.
type DocumentInput struct {
	// From is who called: a SPIFFE ID, or anonymous for somebody who did not prove
	// who it is.
	From string `yaml:"from"`
	// Prefix stands before From where that is a bare name, as in
	// spiffe://acme.example/vms/ for web. Empty: From is a whole SPIFFE ID.
	Prefix string `yaml:"prefix"`
	// Method is the request's method.
	Method string `yaml:"method"`
	// Path is the request's path, with its query: text, or a list of segments.
	Path string `yaml:"path"`
	// Host is what the request says of the host. Empty: not told.
	Host string `yaml:"host"`
	// Headers is an object of header fields. Empty: not told, and a condition on one
	// is not met.
	Headers string `yaml:"headers"`
}

// Kubernetes is how the agent asks the kubelet for the pods of its node (GET /pods). No
// API server is asked.
type Kubernetes struct {
	// Kubelet is its URL, as in https://127.0.0.1:10250; http only on an address of
	// loopback (the read-only port). Empty: no pods are known here.
	Kubelet string `yaml:"kubelet"`
	// Name is what the kubelet's certificate has to be for. Empty: the host of the
	// URL. One that kubelets sign themselves is for the node's name.
	Name string `yaml:"name"`
	// CAFile holds the certificates, in PEM, that the kubelet is verified by.
	CAFile string `yaml:"ca_file"`
	// TokenFile holds a bearer token that may get nodes/pods (or nodes/proxy), as
	// Kubernetes projects them; it is read again for each question. Empty: none.
	TokenFile string `yaml:"token_file"`
	// CertFile holds the client certificate in PEM, in place of a token; it and
	// key_file are read again for each connection. Empty: none.
	CertFile string `yaml:"cert_file"`
	// KeyFile holds its private key in PEM.
	KeyFile string `yaml:"key_file"`
}

// Broker configures the SPIFFE Broker Endpoint.
type Broker struct {
	// Socket is its path, at most 107 bytes. Empty: broker.sock in the directory
	// broker of the run directory.
	Socket string `yaml:"socket"`
	// Group is the Unix group whose members may connect, besides the agent's own
	// user and root. Empty: nobody else.
	Group string `yaml:"group"`
	// Allow lists the brokers. Nobody else is one.
	Allow []BrokerGrant `yaml:"allow"`
}

// BrokerGrant is one broker.
type BrokerGrant struct {
	// ID is the path of its identity in this trust domain, such as `/vms/ztunnel`.
	ID string `yaml:"id"`
	// For lists the identities it may act for: `/a/b`, `/a/*` (one segment) or
	// `/a/**` (any depth).
	For []string `yaml:"for"`
}

// DecisionLog configures the decision log. Bodies and credentials are never in it.
type DecisionLog struct {
	// Allows is the share of allowed requests that are kept, from 0 to 1, as in
	// 0.01. What rules deny, or would in shadow or observe mode, is always kept.
	Allows Share `yaml:"allows"`
	// Path is how paths are written: template, /v1/orders/{id}, or raw, which may
	// hold names of persons and links that open something.
	Path PathForm `yaml:"path"`
	// Headers lists request headers whose values are kept; "*" for all. Empty: none.
	Headers []string `yaml:"headers"`
	// Query lists query parameters whose values are kept; "*" for all. Empty: none.
	Query []string `yaml:"query"`
	// Claims lists claims of the user token whose values are kept, where a rule
	// reads tokens; "*" for all. Empty: none.
	Claims []string `yaml:"claims"`
	// Mask is what of these is written as ***. Besides, everything whose name says
	// that it is a secret (authorization, cookie, token, api-key, …) and everything
	// that looks like a token always is.
	Mask Mask `yaml:"mask"`
	// OCSF is a file of events as OCSF 1.3 has them: API Activity.
	OCSF LogFile `yaml:"ocsf"`
	// OPA is a file of events as the decision logs of OPA have them.
	OPA LogFile `yaml:"opa"`
	// OTLP is a collector that takes OTLP logs.
	OTLP OTLP `yaml:"otlp"`
}

// Mask lists what is kept without its value.
type Mask struct {
	// Headers lists request headers.
	Headers []string `yaml:"headers"`
	// Query lists query parameters.
	Query []string `yaml:"query"`
	// Claims lists claims.
	Claims []string `yaml:"claims"`
}

// LogFile is a file of JSON lines.
type LogFile struct {
	// Path is where it is, absolute, in a directory that exists; mode 0640. Empty:
	// there is none.
	Path string `yaml:"path"`
	// Size is how large it becomes before it is renamed to PATH.1 and another
	// begins, from 64KiB to 1GiB.
	Size Size `yaml:"size"`
	// Files is how many there are at most, from 2 to 1000; the oldest goes.
	Files int `yaml:"files"`
}

// OTLP is a collector.
type OTLP struct {
	// Endpoint is its URL: grpc://HOST:PORT or http://HOST:PORT, grpcs and https
	// with TLS. Empty: none.
	Endpoint string `yaml:"endpoint"`
	// CAFile holds the certificates, in PEM, that it is verified by. Empty: those
	// this host trusts for the web.
	CAFile string `yaml:"ca_file"`
}

// UserTokens bounds where the agent goes for keys of providers.
type UserTokens struct {
	// Allow lists networks (10.1.0.0/16) and addresses that may be asked although
	// they are private, of this host or link-local.
	Allow []string `yaml:"allow"`
	// Hosts lists host or host:port that may be asked wherever they are, and over
	// plain HTTP: whoever is between can then say who your users are.
	Hosts []string `yaml:"hosts"`
	// CAFile holds the certificates, in PEM, that providers are verified by. Empty:
	// those this host trusts for the web.
	CAFile string `yaml:"ca_file"`
}

// Survive holds the budgets that lifetimes are derived from.
type Survive struct {
	// ControlPlaneOutage is how long every node must go on working with no
	// server at all. Leaf certificates live twice as long, the issuing CA four
	// times; both are renewed at half life. From 30s to 84h.
	ControlPlaneOutage Duration `yaml:"control_plane_outage"`
}

// Default is the configuration of an empty kith.yaml. Every key may be absent.
func Default() File {
	return File{
		Log:    Log{Level: "info", Format: "text"},
		Server: Server{Listen: ":8440", Metrics: "127.0.0.1:8441", Audit: Audit{FileSize: 64 << 20, Files: 16}},
		Agent: Agent{Metrics: "127.0.0.1:8442", DecisionLog: DecisionLog{
			Path: "template", OCSF: LogFile{Size: 64 << 20, Files: 8}, OPA: LogFile{Size: 64 << 20, Files: 8},
		}},
		Survive: Survive{ControlPlaneOutage: Duration(30 * time.Minute)},
	}
}
