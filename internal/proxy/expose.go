package proxy

import (
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kith-id/kith/internal/fault"
)

const maxSocketPath = 107 // sun_path of Linux holds 108 bytes, the last one zero

// Exposure is an application that callers may reach over mutual TLS.
type Exposure struct {
	// Listen is the address callers connect to; its host is empty for the
	// default, which is all interfaces, and loopback in `kith dev`.
	Listen string
	// Network is tcp or unix.
	Network string
	// Target is the application: host:port, or the path of a socket.
	Target string
	// Port is the application's port as rules name it, 0 for a socket.
	Port uint16
}

// ParseExposure reads [host:]port=target, where target is a port on loopback,
// host:port or unix:/path: 8443=8080, 10.0.0.5:8443=unix:/run/app.sock.
func ParseExposure(text string) (Exposure, error) {
	const form = "as in 8443=8080, 127.0.0.1:8443=8080 or 8443=unix:/run/app.sock"
	outer, inner, ok := strings.Cut(text, "=")
	if !ok {
		return Exposure{}, fault.Hint(fault.Invalidf("expose %q: no =", text), form)
	}
	host, port, err := hostPort(outer)
	if err != nil {
		return Exposure{}, fault.Hint(fault.Invalidf("expose %q: listening address: %w", text, err), form)
	}
	e := Exposure{Listen: net.JoinHostPort(host, port), Network: "tcp"}
	if path, ok := strings.CutPrefix(inner, "unix:"); ok {
		e.Network, e.Target = "unix", path
		if !filepath.IsAbs(path) || len(path) > maxSocketPath || strings.ContainsRune(path, 0) {
			return Exposure{}, fault.Hint(fault.Invalidf("expose %q: socket %q is no absolute path of at most %d bytes", text, path, maxSocketPath), form)
		}
		return e, nil
	}
	host, port, err = hostPort(inner)
	if err != nil {
		return Exposure{}, fault.Hint(fault.Invalidf("expose %q: application: %w", text, err), form)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return Exposure{}, fault.Hint(fault.Invalidf("expose %q: application port %q", text, port), form)
	}
	e.Target, e.Port = net.JoinHostPort(host, port), uint16(n)
	return e, nil
}

// Local says whether the application is on this host.
func (e Exposure) Local() bool {
	if e.Network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(e.Target)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// String is the exposure as it is written.
func (e Exposure) String() string {
	if e.Network == "unix" {
		return e.Listen + "=unix:" + e.Target
	}
	return e.Listen + "=" + e.Target
}

// Upstream is a local port that leads to a service, for protocols that know no
// proxy.
type Upstream struct {
	Service string
	Listen  string // loopback host:port
}

// ParseUpstream reads service=[host:]port; the host must be loopback, which is
// also the default: db=127.0.0.1:5432, db=5432.
func ParseUpstream(text string) (Upstream, error) {
	const form = "as in db=127.0.0.1:5432"
	service, listen, ok := strings.Cut(text, "=")
	if !ok || service == "" {
		return Upstream{}, fault.Hint(fault.Invalidf("upstream %q: no service and =", text), form)
	}
	host, port, err := hostPort(listen)
	if err != nil {
		return Upstream{}, fault.Hint(fault.Invalidf("upstream %q: %w", text, err), form)
	}
	if host == "" || strings.EqualFold(host, "localhost") {
		host = "127.0.0.1"
	}
	up := Upstream{Service: service, Listen: net.JoinHostPort(host, port)}
	return up, loopbackOnly("upstream "+service, up.Listen)
}

// hostPort splits [host:]port and checks the port.
func hostPort(text string) (host, port string, err error) {
	port = text
	if strings.Contains(text, ":") {
		// Brackets are for IPv6 alone: [unix]:80 would be written unix:80, another thing.
		if host, port, err = net.SplitHostPort(text); err != nil || text[0] == '[' && !strings.Contains(host, ":") {
			return "", "", fault.Invalidf("%q is no host:port", text)
		}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", "", fault.Invalidf("port %q is not between 0 and 65535", port)
	}
	return host, port, nil
}
