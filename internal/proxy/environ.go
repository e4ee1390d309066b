package proxy

import (
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// Environ is base with the variables by which unmodified programs find us: the
// proxy variables in lower and upper case (curl reads only http_proxy, grpc-go
// only HTTPS_PROXY and grpc_proxy), NO_PROXY merged, and the agent's socket.
// addr is Proxy.OutboundAddr; without one the proxy variables stay as they are.
func Environ(base []string, addr, socket string) []string {
	replaced := make(map[string]string)
	if addr != "" {
		at := "http://" + addr
		for _, name := range []string{"http_proxy", "https_proxy", "grpc_proxy"} {
			replaced[name], replaced[strings.ToUpper(name)] = at, at
		}
		direct := mergeNoProxy(lookup(base, "no_proxy"), lookup(base, "NO_PROXY"))
		replaced["no_proxy"], replaced["NO_PROXY"] = direct, direct
	}
	if socket != "" {
		replaced["SPIFFE_ENDPOINT_SOCKET"] = "unix://" + socket
	}
	var out []string
	for _, entry := range base {
		name, _, _ := strings.Cut(entry, "=")
		if _, ok := replaced[name]; !ok {
			out = append(out, entry)
		}
	}
	for name, value := range replaced {
		out = append(out, name+"="+value)
	}
	slices.Sort(out[len(out)-len(replaced):])
	return out
}

// mergeNoProxy joins lists and adds the local host. A lone * is left out: it
// meant no proxy for any host, and with it no service would be found; our own
// proxy still honours it for the hosts that are no services.
func mergeNoProxy(lists ...string) string {
	var merged []string
	for _, list := range append(lists, "localhost,127.0.0.1,::1") {
		for entry := range strings.SplitSeq(list, ",") {
			entry = strings.TrimSpace(entry)
			if entry != "" && entry != "*" && !slices.Contains(merged, entry) {
				merged = append(merged, entry)
			}
		}
	}
	return strings.Join(merged, ",")
}

// lookup is the last value of name, as getenv of most programs sees it.
func lookup(environ []string, name string) string {
	for _, entry := range slices.Backward(environ) {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// newBefore reads the proxies of an environment.
func newBefore(environ []string) *before {
	first := func(names ...string) string {
		for _, name := range names {
			if value := lookup(environ, name); value != "" {
				return value
			}
		}
		return ""
	}
	config := &httpproxy.Config{
		HTTPProxy:  first("HTTP_PROXY", "http_proxy"),
		HTTPSProxy: first("HTTPS_PROXY", "https_proxy"),
		NoProxy:    first("NO_PROXY", "no_proxy"),
	}
	proxy := config.ProxyFunc()
	return &before{proxy: func(u *url.URL) (*url.URL, error) { return proxy(u) }}
}
