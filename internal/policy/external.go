package policy

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

const (
	maxExternals       = 16
	maxExternalActions = 64
	maxExternalHeaders = 64
	maxExternalURL     = 2 << 10
	maxExternalCA      = 64 << 10
	maxSocketPath      = 107
	// DefaultExternalTimeout is how long an external decision may take where it does
	// not say, and maxExternalTimeout what it can say.
	DefaultExternalTimeout = 500 * time.Millisecond
	maxExternalTimeout     = 10 * time.Second
)

// External is a program that must agree to what rules allow. It is asked by the
// enforcement point and can only deny; whoever does not answer denies.
type External struct {
	Name string
	// Actions are what it is asked about, as in ParseAction; empty: everything.
	Actions []string
	// OPA is the URL of a document in OPA's data API; ExtAuthz that of an Envoy
	// ext_authz v3 gRPC service, scheme, host and port. One of the two is given.
	OPA, ExtAuthz string
	// Socket is a unix socket to dial, whatever the URL's host.
	Socket string
	// CA verifies an https host, in PEM, in place of the web's authorities.
	CA string
	// Timeout is for each question; 0 is DefaultExternalTimeout.
	Timeout time.Duration
	// Headers of the request that are sent along, * for all.
	Headers []string
}

func (s Service) checkExternals(at string, f *faults) {
	f.bound(at+".external", len(s.Externals), maxExternals)
	for i, e := range s.Externals[:min(len(s.Externals), maxExternals)] {
		here := index(at+".external", i)
		if err := ValidateName(e.Name); err != nil {
			f.add(here+".name", err)
		} else if slices.ContainsFunc(s.Externals[:i], func(o External) bool { return o.Name == e.Name }) {
			f.add(here+".name", fault.Invalidf("%q is there twice", e.Name))
		}
		f.bound(here+".actions", len(e.Actions), maxExternalActions)
		for j, text := range e.Actions {
			if action, err := ParseAction(text); err != nil {
				f.add(index(here+".actions", j), err)
			} else if !action.fits(s.Protocol) {
				f.add(index(here+".actions", j), misfit(action, s))
			}
		}
		for _, c := range []struct {
			field string
			err   error
		}{{".opa", e.checkWhom()}, {".socket", e.checkSocket()}, {".ca", e.checkCA()}, {".timeout", e.checkTimeout()}, {".headers", e.checkHeaders()}} {
			if c.err != nil {
				f.add(here+c.field, c.err)
			}
		}
	}
}

func (e External) checkWhom() error {
	const opa, extAuthz = "opa: http://127.0.0.1:8181/v1/data/orders/allow", "ext_authz: http://127.0.0.1:9191"
	switch {
	case e.OPA == "" && e.ExtAuthz == "":
		return fault.Hint(fault.Invalidf("nobody to ask"), "as in %s or %s", opa, extAuthz)
	case e.OPA != "" && e.ExtAuthz != "":
		return fault.Hint(fault.Invalidf("two to ask"), "make two of it; they are asked one after the other")
	case e.OPA != "":
		u, err := e.parse(e.OPA, opa)
		if err == nil && (!strings.HasPrefix(u.EscapedPath(), "/v1/data/") || u.RawQuery != "") {
			err = fault.Hint(fault.Invalidf("%q is no document of OPA's data API", clip(e.OPA)), "as in %s", opa)
		}
		return err
	default:
		u, err := e.parse(e.ExtAuthz, extAuthz)
		if err == nil && (strings.Trim(u.Path, "/") != "" || u.RawQuery != "") {
			err = fault.Hint(fault.Invalidf("%q has more than scheme, host and port", clip(e.ExtAuthz)), "as in %s", extAuthz)
		}
		return err
	}
}

// parse reads a URL. Plain HTTP leaves no host: anybody on the way could answer.
func (e External) parse(text, form string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > maxExternalURL || u.Host == "" || u.Opaque != "" || u.User != nil || u.Fragment != "":
		return nil, fault.Hint(fault.Invalidf("%q is no URL of a host", clip(text)), "as in %s", form)
	case u.Scheme == "https":
		return u, nil
	case u.Scheme != "http":
		return nil, fault.Hint(fault.Invalidf("%q is neither http nor https", clip(text)), "as in %s", form)
	case e.Socket == "" && !loopback(u.Hostname()):
		return nil, fault.Hint(fault.Invalidf("%q is plain HTTP to another host: anybody on the way could answer", clip(text)), "https, or a program beside the service")
	}
	return u, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	at, err := netip.ParseAddr(host)
	return err == nil && at.IsLoopback()
}

func (e External) checkSocket() error {
	if e.Socket != "" && (e.Socket[0] != '/' || len(e.Socket) > maxSocketPath || strings.ContainsRune(e.Socket, 0)) {
		return fault.Invalidf("%q is no absolute path of at most %d bytes", clip(e.Socket), maxSocketPath)
	}
	return nil
}

func (e External) checkCA() error {
	if e.CA != "" && (len(e.CA) > maxExternalCA || !x509.NewCertPool().AppendCertsFromPEM([]byte(e.CA))) {
		return fault.Invalidf("holds no certificate in PEM")
	}
	return nil
}

func (e External) checkTimeout() error {
	if e.Timeout < 0 || e.Timeout > maxExternalTimeout {
		return fault.Invalidf("%s is not up to %s", e.Timeout, maxExternalTimeout)
	}
	return nil
}

func (e External) checkHeaders() error {
	if len(e.Headers) > maxExternalHeaders {
		return fault.Invalidf("%d of them, at most %d", len(e.Headers), maxExternalHeaders)
	}
	for _, name := range e.Headers {
		if name != "*" && checkMethod(name) != nil { // a token, as a method is
			return fault.Hint(fault.Invalidf("%q is no header", clip(name)), "as in x-request-id; * for all")
		}
	}
	return nil
}

// matcher is one external decision's actions, parsed.
type matcher []Action

// externals parses what Validate has accepted.
func (s Service) externals() ([]matcher, error) {
	var f faults
	s.checkExternals("services."+s.Name, &f)
	if err := f.err(); err != nil {
		return nil, err
	}
	out := make([]matcher, len(s.Externals))
	for i, e := range s.Externals {
		for _, text := range e.Actions {
			action, err := ParseAction(text)
			if err != nil {
				return nil, err
			}
			out[i] = append(out[i], action)
		}
	}
	return out, nil
}

// Externals are the external decisions of the service, in the order in which
// they are asked. They must not be changed.
func (t *Table) Externals() []External {
	if t == nil {
		return nil
	}
	return t.externals
}

// Asks says whether the i-th external decision is asked about a request that
// rules allow. It is for services that have some; it may allocate.
func (t *Table) Asks(i int, r Request) bool {
	actions := t.asked[i]
	return len(actions) == 0 || slices.ContainsFunc(actions, func(a Action) bool { return a.matches(t, r) })
}

// matches is true if the action is about the request. What could be about it and
// is not known to be otherwise is: an unknown port, for who must agree.
func (a Action) matches(t *Table, r Request) bool {
	switch {
	case a.protocol.carriesRequests() != r.Protocol.carriesRequests():
		return false
	case a.protocol == TCP:
		return a.port == 0 || r.Port == 0 || a.port == r.Port
	case a.methods != nil && !slices.Contains(a.methods, r.Method):
		return false
	}
	return covers(a.path, pathParts(r.Path))
}

// pathParts is a normal path as parts that match it alone.
func pathParts(path string) []part {
	var parts []part
	for segment := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		parts = append(parts, part{text: string(fold(nil, segment))})
	}
	return parts
}

func externalsFromPB(all []*pb.External) ([]External, error) {
	var out []External
	for i, m := range all {
		if err := understood(m); err != nil {
			return nil, at(index("external", i), err)
		}
		e := External{
			Name: m.GetName(), Actions: m.GetActions(), OPA: m.GetOpa(), ExtAuthz: m.GetExtAuthz(), Socket: m.GetSocket(),
			CA: m.GetCa(), Headers: m.GetHeaders(),
		}
		if m.GetTimeout() != nil {
			if err := m.GetTimeout().CheckValid(); err != nil {
				return nil, at(index("external", i)+".timeout", fault.Wrap(fault.Invalid, err))
			}
			e.Timeout = m.GetTimeout().AsDuration()
		}
		out = append(out, e)
	}
	return out, nil
}

// PB is the external decision on the wire.
func (e External) PB() *pb.External {
	m := &pb.External{
		Name: e.Name, Actions: e.Actions, Opa: e.OPA, ExtAuthz: e.ExtAuthz, Socket: e.Socket, Ca: e.CA, Headers: e.Headers,
	}
	if e.Timeout != 0 {
		m.Timeout = durationpb.New(e.Timeout)
	}
	return m
}

// String names the external decision and whom it asks.
func (e External) String() string {
	whom := e.OPA + e.ExtAuthz
	if e.Socket != "" {
		whom = "unix:" + e.Socket
	}
	return fmt.Sprintf("%s (%s)", e.Name, whom)
}
