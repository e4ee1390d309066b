package kith

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/grpc/codes"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/policy"
)

// DecisionHeader is the response header that carries the id of a denial.
const DecisionHeader = "Kith-Decision"

const (
	headerTimeout  = 10 * time.Second
	serverIdle     = 5 * time.Minute
	maxHeaderBytes = 60 << 10 // net/http adds 4 KiB of slack, so 64 KiB and more get 431
	maxStreams     = 128      // per HTTP/2 connection; net/http ends one that resets more than it may open
	drainTime      = 10 * time.Second
)

// Serve listens on addr and serves handler to callers the policy allows, until
// ctx ends; then it withdraws its address, stops accepting, lets requests finish
// for ten seconds and returns nil. Where Config.Advertise was empty it registers the address it
// listens on, if that is one others can dial.
func (w *Workload) Serve(ctx context.Context, handler http.Handler, addr string, options ...Option) error {
	inner, withdraw, err := w.listen(ctx, addr)
	if err != nil {
		return err
	}
	defer withdraw()
	server := w.Server(w.Handler(handler, 0, options...))
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		withdraw() // first: while it drains nobody is sent here any more
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		err := server.Shutdown(limit)
		if err != nil {
			err = server.Close()
		}
		stopped <- err
	})
	err = server.Serve(w.Listener(inner, "h2", "http/1.1"))
	if stop() { // it ended by itself
		return errors.Join(err, server.Close())
	}
	return <-stopped
}

// listen listens on addr and advertises it where Config.Advertise was empty.
func (w *Workload) listen(ctx context.Context, addr string) (inner net.Listener, withdraw func(), err error) {
	inner, err = (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, fault.Hint(fmt.Errorf("listen on %s: %w", addr, err), "ss -ltnp shows who has the port")
	}
	if len(*w.addresses.Load()) == 0 {
		if at, ok := w.Reachable(inner.Addr()); ok {
			w.Advertise(at)
			return inner, func() { w.Advertise() }, nil
		}
	}
	return inner, func() {}, nil
}

// Server is a net/http server with the limits of this package and its
// ConnContext set. Serve it the connections of a [Workload.Listener].
func (w *Workload) Server(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:                      handler,
		ConnContext:                  w.ConnContext,
		ReadHeaderTimeout:            headerTimeout,
		IdleTimeout:                  serverIdle,
		MaxHeaderBytes:               maxHeaderBytes,
		DisableGeneralOptionsHandler: true, // OPTIONS * is decided like the rest
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, SendPingTimeout: serverIdle, PingTimeout: 15 * time.Second,
			WriteByteTimeout: time.Minute,
		},
		ErrorLog: slog.NewLogLogger(w.cfg.Log.Handler(), slog.LevelDebug),
	}
}

// Reachable is where others reach a listener, for Advertise. One on all
// interfaces is reached at the node's first global address; in `kith dev`
// everything is local.
func (w *Workload) Reachable(at net.Addr) (address string, ok bool) {
	ap, err := netip.ParseAddrPort(at.String())
	if err != nil {
		return "", false
	}
	if !ap.Addr().IsUnspecified() {
		return ap.String(), true
	}
	if w.Dev() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), ap.Port()).String(), true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", false
	}
	for _, candidate := range addrs {
		prefix, err := netip.ParsePrefix(candidate.String())
		if err == nil && prefix.Addr().IsGlobalUnicast() && (ap.Addr().Is6() || prefix.Addr().Is4()) {
			return netip.AddrPortFrom(prefix.Addr(), ap.Port()).String(), true
		}
	}
	return "", false
}

// Handler decides each request before next sees it: 403 with a decision id
// where policy says no, 400 for a path with more than one reading, and next
// with the path in normal form for the rest. port is the application's port
// as rules name it; 0 takes the port of the connection. Upgraded
// connections, event streams and gRPC streams are decided again at each change
// of policy and cut when they are denied.
func (w *Workload) Handler(next http.Handler, port uint16, options ...Option) http.Handler {
	serving := servingOf(options)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		peer := w.peerOf(r)
		request := requestOf(r, port)
		if wrong := malformed(r); wrong != "" {
			http.Error(rw, wrong, http.StatusBadRequest)
			return
		}
		now := w.cfg.Now()
		if peer != nil && peer.outlived(now) {
			// The caller rotates by connecting again; what it asked is still served.
			rw.Header().Set("Connection", "close")
		}
		if lives(r, request) {
			w.serveHeld(rw, r, next, peer, request, serving.check(r.Context()))
			return
		}
		d := w.decide(r.Context(), peer, &request, serving.check(r.Context()), now)
		if !d.Allowed {
			Deny(rw, r, d)
			return
		}
		next.ServeHTTP(rw, admitted(r.Context(), r, peer, d))
	})
}

// malformed says what is wrong with a request that net/http lets pass in HTTP/2
// and that the next program could read in another way: a host beside :authority,
// one that is no host, a length that is not the body's (RFC 9113 8.1.1, 8.3.1).
// HTTP/1 never gets here with one of these.
func malformed(r *http.Request) string {
	length := r.Header["Content-Length"]
	switch {
	case r.ProtoMajor < 2:
		return ""
	case len(r.Header["Host"]) > 0:
		return "request has a second host"
	case !httpguts.ValidHostHeader(r.Host):
		return "request has a malformed host"
	case len(length) > 1, len(length) == 1 && length[0] != strconv.FormatInt(r.ContentLength, 10):
		return "request has another length than it says"
	}
	return ""
}

func (w *Workload) peerOf(r *http.Request) *Peer {
	if peer, ok := onConnection(r.Context()); ok {
		return peer
	}
	if r.TLS == nil {
		return nil
	}
	peer, err := w.Peer(*r.TLS)
	if err != nil {
		return nil
	}
	return peer
}

// PathOf is the path of a request target as it was sent, for [Request.Path]. A
// target with a fragment is left as it is: it has no normal form and is refused.
func PathOf(target string) string {
	if strings.Contains(target, "#") {
		return target
	}
	path, _, _ := strings.Cut(target, "?")
	return path
}

// requestOf is what is decided. The path is that of the request target as sent:
// the URL package has already decoded its own copy. Targets that are no path
// (CONNECT, *, an absolute form, a fragment anywhere) have no normal form and
// are refused with those that have two.
func requestOf(r *http.Request, port uint16) Request {
	path := PathOf(r.RequestURI)
	request := Request{
		Protocol: HTTP, Method: r.Method, Path: path, Host: r.Host, Port: port,
		Query: strings.TrimPrefix(r.RequestURI[len(path):], "?"), Headers: r.Header,
	}
	if strings.HasPrefix(field(r.Header, "Content-Type"), "application/grpc") {
		request.Protocol, request.GRPC = GRPC, true
	}
	if port == 0 {
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
			request.Port = uint16(local.Port)
		}
	}
	return request
}

// field is the first value of a header field whose name is in canonical form, as
// net/http has made it. Header.Get brings the name into that form each time, which
// costs a request as much as deciding it.
func field(h http.Header, name string) string {
	if values := h[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// admitted is the request as next sees it: its path is the one that was
// decided, and who called is in its context.
func admitted(ctx context.Context, r *http.Request, peer *Peer, d Decision) *http.Request {
	out := r.WithContext(withCaller(ctx, Caller{Peer: peer, Decision: d}))
	if r.URL.EscapedPath() == d.Path {
		return out
	}
	u := *r.URL
	u.RawPath = d.Path
	u.Path = unescaped(d.Path)
	u.Opaque, u.Scheme, u.Host, u.User, u.Fragment, u.RawFragment = "", "", "", nil, "", ""
	out.URL = &u
	out.RequestURI = u.RequestURI()
	return out
}

// Deny answers a request that was not allowed: 403 or 400 with the decision id,
// or for gRPC a trailers-only answer with status 7. Where all that is missing is a
// good user token it is 401, or status 16: programs get a new one by that. It does
// not say why otherwise: that is for operators, who ask `kith why`.
func Deny(rw http.ResponseWriter, r *http.Request, d Decision) {
	head := rw.Header()
	head.Set(DecisionHeader, d.ID)
	head.Set("Cache-Control", "no-store")
	if isGRPC(r) {
		head.Set("Content-Type", "application/grpc")
		code, message := denialStatus(d)
		head.Set("Grpc-Status", code)
		head.Set("Grpc-Message", message)
		rw.WriteHeader(http.StatusOK)
		return
	}
	status, text := http.StatusForbidden, "denied by policy"
	switch {
	case d.Malformed():
		status, text = http.StatusBadRequest, "path is not in its normal form"
	case d.Reason == policy.TokenInvalid.String(): // RFC 6750 3: so that clients get a new one
		status, text = http.StatusUnauthorized, "a good user token is needed"
		head.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	case d.WantsToken():
		status, text = http.StatusUnauthorized, "a user token is needed"
		head.Set("WWW-Authenticate", "Bearer")
	}
	hint := "kith why " + d.ID
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		head.Set("Content-Type", "application/json")
		rw.WriteHeader(status)
		json.NewEncoder(rw).Encode(map[string]string{"error": text, "decision": d.ID, "hint": hint}) //nolint:errcheck // the caller has gone
		return
	}
	head.Set("Content-Type", "text/plain; charset=utf-8")
	head.Set("X-Content-Type-Options", "nosniff")
	rw.WriteHeader(status)
	fmt.Fprintf(rw, "%s, decision %s\nhint: %s\n", text, d.ID, hint)
}

func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// denialStatus is the gRPC code and message of a denial.
func denialStatus(d Decision) (code, message string) {
	return strconv.Itoa(int(denialCode(d))), denialText(d)
}

func denialCode(d Decision) codes.Code {
	switch {
	case d.Malformed():
		return codes.InvalidArgument
	case d.WantsToken():
		return codes.Unauthenticated
	default:
		return codes.PermissionDenied
	}
}

// denialText says no in gRPC. Ids hold no character that Grpc-Message must escape.
func denialText(d Decision) string {
	switch {
	case d.Malformed():
		return "path is not in its normal form, decision " + d.ID
	case d.WantsToken():
		return "a good user token is needed, decision " + d.ID
	}
	return "denied by policy, decision " + d.ID + " (kith why " + d.ID + ")"
}
