package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// serverName is what fits one segment of an identity.
var serverName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,255}$`)

// The span of the outage budget: below, certificates would be renewed all the
// time; above, a stolen key would live for weeks.
const (
	minOutage = 30 * time.Second
	maxOutage = 84 * time.Hour
)

// Validate returns every fault at once, each with the path of its key, or nil.
func (f File) Validate() error {
	var v validation
	if f.TrustDomain != "" {
		_, err := spiffe.ParseTrustDomain(f.TrustDomain)
		v.check("trust_domain", err)
	}
	if f.Server.Name != "" && (!serverName.MatchString(f.Server.Name) || strings.Trim(f.Server.Name, ".") == "") {
		v.addf("server.name", "%q: letters, digits, '.', '_' and '-' only", f.Server.Name)
	}
	v.check("server.listen", checkAddress(f.Server.Listen, false))
	v.optional("server.address", f.Server.Address, func(s string) error { return checkAddress(s, true) })
	v.optional("server.metrics", f.Server.Metrics, func(s string) error { return checkAddress(s, false) })
	v.optional("server.admin_listen", f.Server.AdminListen, func(s string) error { return checkAddress(s, false) })
	v.optional("server.socket", f.Server.Socket, CheckSocketPath)
	if n := f.Server.Audit.FileSize; n < 64<<10 || n > 1<<30 {
		v.addf("server.audit.file_size", "%s is outside 64KiB to 1GiB", n)
	}
	if n := f.Server.Audit.Files; n < 2 || n > 1000 {
		v.addf("server.audit.files", "%d is outside 2 to 1000", n)
	}
	for i, s := range f.Server.RS256Audiences {
		v.check(fmt.Sprintf("server.rs256_audiences[%d]", i), registry.ValidateAudience([]string{s}))
	}
	v.federation(f.Server.Federation)
	v.oidc(f.Server.OIDC)
	v.optional("agent.server", f.Agent.Server, func(s string) error { return checkAddress(s, true) })
	v.optional("agent.pin", f.Agent.Pin, func(s string) error { _, err := spiffe.ParsePin(s); return err })
	v.optional("agent.advertise", f.Agent.Advertise, checkHost)
	v.optional("agent.metrics", f.Agent.Metrics, func(s string) error { return checkAddress(s, false) })
	v.optional("agent.socket", f.Agent.Socket, CheckSocketPath)
	v.optional("agent.authz_listen", f.Agent.AuthzListen, CheckLoopback)
	v.optional("agent.authzen_url", f.Agent.AuthZENURL, CheckAuthZENURL)
	v.kubernetes(f.Agent.Kubernetes)
	v.broker(f)
	v.documents(f.Agent.Documents)
	for i, s := range f.Agent.UserTokens.Allow {
		_, err := ParseNetwork(s)
		v.check(fmt.Sprintf("agent.user_tokens.allow[%d]", i), err)
	}
	for i, s := range f.Agent.UserTokens.Hosts {
		err := checkHost(s)
		if s == "" || strings.Contains(s, ":") {
			err = checkAddress(s, true)
		}
		v.check(fmt.Sprintf("agent.user_tokens.hosts[%d]", i), err)
	}
	v.decisionLog(f.Agent.DecisionLog)
	if d := time.Duration(f.Survive.ControlPlaneOutage); d < minOutage || d > maxOutage {
		v.addf("survive.control_plane_outage", "%v is outside %v to %v", f.Survive.ControlPlaneOutage, Duration(minOutage), Duration(maxOutage))
	}
	return v.err()
}

// decisionLog checks names and files. The endpoint is for decisionlog to check,
// which `kith config check` asks as well.
func (v *validation) decisionLog(l DecisionLog) {
	names := func(path string, all []string) {
		for i, name := range all {
			if name == "" || len(name) > 128 || strings.ContainsAny(name, " \t\r\n") {
				v.addf(fmt.Sprintf("agent.decision_log.%s[%d]", path, i), "%q is no name", name)
			}
		}
	}
	names("headers", l.Headers)
	names("query", l.Query)
	names("claims", l.Claims)
	names("mask.headers", l.Mask.Headers)
	names("mask.query", l.Mask.Query)
	names("mask.claims", l.Mask.Claims)
	file := func(path string, f LogFile) {
		if f.Path != "" && !filepath.IsAbs(f.Path) {
			v.addf(path+".path", "%q is not absolute", f.Path)
		}
		if f.Size < 64<<10 || f.Size > 1<<30 {
			v.addf(path+".size", "%s is outside 64KiB to 1GiB", f.Size)
		}
		if f.Files < 2 || f.Files > 1000 {
			v.addf(path+".files", "%d is outside 2 to 1000", f.Files)
		}
	}
	file("agent.decision_log.ocsf", l.OCSF)
	file("agent.decision_log.opa", l.OPA)
	if l.OCSF.Path != "" && l.OCSF.Path == l.OPA.Path {
		v.addf("agent.decision_log.opa.path", "%s is that of ocsf", l.OPA.Path)
	}
}

// validation collects faults by path.
type validation struct{ faults []error }

func (v *validation) addf(path, format string, args ...any) {
	v.faults = append(v.faults, fmt.Errorf("%s: %w", path, fmt.Errorf(format, args...)))
}

func (v *validation) check(path string, err error) {
	if err != nil {
		v.addf(path, "%w", err)
	}
}

// optional checks a value that may be left empty.
func (v *validation) optional(path, value string, check func(string) error) {
	if value != "" {
		v.check(path, check(value))
	}
}

func (v *validation) err() error { return fault.Wrap(fault.Invalid, errors.Join(v.faults...)) }

// ParseNetwork reads a network, 10.1.0.0/16, or one address.
func ParseNetwork(s string) (netip.Prefix, error) {
	if at, err := netip.ParseAddr(s); err == nil && at.Zone() == "" {
		return netip.PrefixFrom(at.Unmap(), at.Unmap().BitLen()), nil
	}
	network, err := netip.ParsePrefix(s)
	if err != nil || network.Masked() != network {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network as in 10.1.0.0/16", s)
	}
	return network, nil
}

// federation checks the listeners and the networks.
func (v *validation) federation(f Federation) {
	v.optional("server.federation.spiffe_listen", f.SPIFFEListen, func(s string) error { return checkAddress(s, false) })
	v.web("server.federation.web", f.Web)
	for _, network := range f.Allow {
		_, err := ParseNetwork(network)
		v.check("server.federation.allow", err)
	}
}

// broker checks who may broker and for whom.
func (v *validation) broker(f File) {
	b := f.Agent.Broker
	v.optional("agent.broker.socket", b.Socket, func(s string) error {
		if !strings.HasPrefix(s, "/") {
			return fmt.Errorf("%q is no absolute path", s)
		}
		return CheckSocketPath(s)
	})
	if f.Features.Broker && len(b.Allow) == 0 {
		v.addf("agent.broker.allow", "empty, although features.broker is on: nobody could use it")
	}
	if !f.Features.Broker && len(b.Allow) > 0 {
		v.addf("features.broker", "false, although agent.broker names brokers")
	}
	for i, grant := range b.Allow {
		path := fmt.Sprintf("agent.broker.allow[%d]", i)
		v.check(path+".id", checkPath(grant.ID, false))
		if len(grant.For) == 0 {
			v.addf(path+".for", "empty: name the identities that it may act for")
		}
		for _, pattern := range grant.For {
			v.check(path+".for", checkPath(pattern, true))
		}
		for _, other := range b.Allow[:i] {
			if other.ID == grant.ID {
				v.addf(path+".id", "%s stands twice", grant.ID)
			}
		}
	}
}

// checkPath accepts the path of an identity that a rule could give, and in a
// pattern * for a segment and ** for the rest.
func checkPath(path string, pattern bool) error {
	plain := path
	if pattern {
		plain = strings.ReplaceAll(strings.TrimSuffix(path, "/**"), "/*", "/x")
	}
	if plain == "" && path == "/**" {
		return nil
	}
	if _, err := spiffe.ParseID("spiffe://trust.domain" + plain); err != nil || !strings.HasPrefix(plain, "/") {
		return fmt.Errorf("%q is no path of an identity, such as /vms/orders", path)
	}
	if plain == "/kith" || strings.HasPrefix(plain, "/kith/") {
		return fmt.Errorf("%q is reserved", path)
	}
	return nil
}

// oidc checks the issuer, and that what is served has one.
func (v *validation) oidc(o OIDC) {
	v.optional("server.oidc.issuer", o.Issuer, registry.ValidateIssuer)
	v.web("server.oidc.web", o.Web)
	v.optional("server.oidc.behind", o.Behind, checkBehind)
	if o.Issuer == "" && (o.Web.Listen != "" || o.Behind != "") {
		v.addf("server.oidc.issuer", "empty, although there is a listener for it")
	}
}

// checkBehind accepts unix: and a path, or host:port on loopback: what is not
// encrypted must not be reached from elsewhere.
func checkBehind(s string) error {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if !strings.HasPrefix(path, "/") {
			return fmt.Errorf("%q: the path of a socket begins with a slash", s)
		}
		return CheckSocketPath(path)
	}
	if err := checkAddress(s, false); err != nil {
		return err
	}
	host, _, _ := net.SplitHostPort(s)
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%q is not on loopback, and is not encrypted", s)
	}
	return nil
}

// web checks that a listener has exactly one source of certificates.
func (v *validation) web(path string, w Web) {
	v.optional(path+".listen", w.Listen, func(s string) error { return checkAddress(s, false) })
	files := w.CertFile != "" || w.KeyFile != ""
	switch {
	case w.Listen == "" && (files || w.ACME != (ACME{})):
		v.addf(path+".listen", "empty, although there is a certificate for it")
	case w.Listen != "" && !files && w.ACME.Domain == "":
		v.addf(path, "listens without a certificate: set cert_file and key_file, or acme")
	case files && w.ACME.Domain != "":
		v.addf(path, "has both files and acme: one of them")
	case files && (w.CertFile == "" || w.KeyFile == ""):
		v.addf(path, "cert_file and key_file belong together")
	}
	if w.ACME.Domain == "" {
		return
	}
	v.check(path+".acme.domain", checkHost(w.ACME.Domain))
	if !w.ACME.AcceptTerms {
		v.addf(path+".acme.accept_terms", "must be true: the CA's terms of service are yours to accept")
	}
	v.optional(path+".acme.directory", w.ACME.Directory, checkHTTPS)
}

// checkHTTPS accepts an https URL.
func checkHTTPS(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return fmt.Errorf("%q is not an https URL", s)
	}
	return nil
}

// checkAddress reads host:port; the host may be empty only for a listener.
func checkAddress(s string, needHost bool) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port", s)
	}
	if needHost && host == "" {
		return fmt.Errorf("%q has no host: write the one others reach", s)
	}
	if host != "" {
		if err := checkHost(host); err != nil {
			return err
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || (n == 0 && needHost) {
		return fmt.Errorf("%q: port %q is not a number from 1 to 65535", s, port)
	}
	return nil
}

// checkHost accepts a DNS name or an IP address, without a port.
func checkHost(s string) error {
	if ip, _, _ := strings.Cut(s, "%"); net.ParseIP(ip) != nil {
		return nil
	}
	if len(s) > 253 {
		return fmt.Errorf("host name of %d bytes: at most 253", len(s))
	}
	for _, c := range []byte(s) {
		if c != '.' && c != '-' && c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return fmt.Errorf("%q is not a host name or IP address", s)
		}
	}
	return nil
}

// maxSocketPath is what fits sockaddr_un with its closing zero byte.
func maxSocketPath() int {
	if runtime.GOOS == "linux" {
		return 107
	}
	return 103
}

// CheckLoopback accepts an address and port of loopback, where alone it is known
// which process is at the other end.
func CheckLoopback(s string) error {
	at, err := netip.ParseAddrPort(s)
	if err != nil || !at.Addr().IsLoopback() || at.Port() == 0 {
		return fault.Invalidf("%q: want an address and port of loopback, as 127.0.0.1:9190; elsewhere nobody can tell which process asks", s)
	}
	return nil
}

// CheckAuthZENURL accepts what can be the identifier of a decision point, and that
// the paths of its endpoints are put behind. AuthZEN 9.1.1: https, neither query nor
// fragment.
func CheckAuthZENURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || len(s) > 2<<10 || u.Scheme != "https" || u.Hostname() == "" || s != "https://"+u.Host {
		return fault.Hint(fault.Invalidf("%q is no https URL of a host and nothing more", s), "as in https://pdp.example:8443")
	}
	return nil
}

// CheckSocketPath refuses a path the kernel would not take, which it reports
// only as "invalid argument", and whatever is no path. Workload Endpoint 3: TCP only
// where something else says who connects, and nothing does.
func CheckSocketPath(path string) error {
	switch scheme, _, ok := strings.Cut(path, "://"); {
	case ok && scheme == "tcp":
		return fault.Invalidf("%q: want the path of a unix socket; over TCP nobody can tell which process connects", path)
	case ok:
		return fault.Invalidf("%q: want the path of a unix socket", path)
	}
	if n, limit := len(path), maxSocketPath(); n > limit {
		return fault.Hint(fault.Invalidf("socket path of %d bytes, at most %d fit: %s", n, limit, path),
			"set KITH_RUN_DIR to a shorter directory")
	}
	return nil
}
