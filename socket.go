package kith

import (
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kith-id/kith/internal/fault"
)

const (
	maxSocketPath   = 107      // sun_path of Linux holds 108 bytes, the last one zero
	maxAgentMessage = 16 << 20 // a slice or directory larger than this is refused
	agentSocketName = "agent.sock"
)

// findSocket is the agent's socket path: as configured, else by environment,
// else the first default place where one exists.
func findSocket(configured string) (string, error) {
	for _, choice := range []struct{ from, value string }{
		{"Config.Socket", configured},
		{"SPIFFE_ENDPOINT_SOCKET", os.Getenv("SPIFFE_ENDPOINT_SOCKET")},
		{"KITH_AGENT_SOCKET", os.Getenv("KITH_AGENT_SOCKET")},
	} {
		if choice.value != "" {
			return parseSocket(choice.from, choice.value)
		}
	}
	places := defaultSockets()
	for _, path := range places {
		if info, err := os.Stat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
			return parseSocket("default", path)
		}
	}
	return "", fault.Hint(fault.NotFoundf("no agent socket: looked at %s", strings.Join(places, ", ")),
		"kith dev starts one for trying out; elsewhere set SPIFFE_ENDPOINT_SOCKET")
}

func defaultSockets() []string {
	var places []string
	if dir := os.Getenv("KITH_RUN_DIR"); dir != "" {
		places = append(places, filepath.Join(dir, agentSocketName))
	}
	if uid := os.Getuid(); uid != 0 {
		dir := filepath.Join("/tmp", "kith-"+strconv.Itoa(uid))
		if runtime := os.Getenv("XDG_RUNTIME_DIR"); runtime != "" {
			dir = filepath.Join(runtime, "kith")
		}
		places = append(places, filepath.Join(dir, agentSocketName))
	}
	return append(places, filepath.Join("/run/kith", agentSocketName))
}

// parseSocket reads a path or a unix URI as the SPIFFE Workload Endpoint
// defines it: scheme unix, absolute path, no authority, query or fragment.
func parseSocket(from, value string) (string, error) {
	path, isURI := strings.CutPrefix(value, "unix:")
	if isURI {
		path = "/" + strings.TrimLeft(path, "/")
		if authority, ok := strings.CutPrefix(value, "unix://"); ok && !strings.HasPrefix(authority, "/") {
			return "", fault.Hint(fault.Invalidf("%s: %q has an authority", from, value), "write unix:///%s", authority)
		}
	}
	switch {
	case strings.HasPrefix(value, "tcp:"):
		return "", fault.Hint(fault.Invalidf("%s: %q: no agent of Kith is on TCP, over which it could not tell who connects", from, value),
			"write unix:///path/to/agent.sock")
	case strings.Contains(value, "://") && !isURI:
		return "", fault.Hint(fault.Invalidf("%s: %q is not a unix socket", from, value), "write unix:///path/to/agent.sock")
	case strings.ContainsAny(path, "?#\x00"):
		return "", fault.Invalidf("%s: %q has a query or fragment", from, value)
	case !filepath.IsAbs(path):
		return "", fault.Hint(fault.Invalidf("%s: %q is not an absolute path", from, value), "write unix:///path/to/agent.sock")
	case len(path) > maxSocketPath:
		return "", fault.Hint(fault.Invalidf("%s: socket path of %d bytes is too long, %d fit", from, len(path), maxSocketPath),
			"choose a shorter KITH_RUN_DIR")
	}
	return path, nil
}

// checkOwners refuses a socket that stands where anybody could have put it, as
// below /tmp, and somebody else has: who answers there would give us an identity
// and a policy of their own making.
func checkOwners(path string, uid int) error {
	for at := path; at != filepath.Dir(at); at = filepath.Dir(at) {
		parent, err := os.Stat(filepath.Dir(at))
		if err != nil || parent.Mode().Perm()&0o002 == 0 {
			continue // what is not there shows when it is dialled
		}
		info, err := os.Lstat(at)
		if err != nil {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 && int(st.Uid) != uid {
			return fault.Hint(fault.Deniedf("agent socket %s: %s belongs to another user, who could be no agent at all", path, at),
				"set SPIFFE_ENDPOINT_SOCKET to the agent's socket")
		}
	}
	return nil
}

// dialAgent makes the connection; nothing is sent before the first stream. The
// proxy variables of the environment are never used for it: under `kith run`
// they lead to ourselves.
func dialAgent(path string) (*grpc.ClientConn, error) {
	target := url.URL{Scheme: "unix", Path: path} // gRPC reads a URL: a percent sign is no escape here
	return grpc.NewClient(target.String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0),
		grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAgentMessage)),
		grpc.WithConnectParams(agentBackoff()))
}

// agentBackoff is how a connection that broke is made again.
func agentBackoff() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
		MinConnectTimeout: 5 * time.Second,
	}
}

// agentAnswers says whether anything accepts on the socket, and if not, why.
func agentAnswers(path string) error {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return conn.Close()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.Hint(fault.NotFoundf("no agent socket at %s", path), "start one: kith dev, or systemctl start kith-agent")
	case errors.Is(err, fs.ErrPermission):
		return fault.Hint(fault.Deniedf("agent socket %s may not be opened by uid %d", path, os.Getuid()), "kith doctor")
	default:
		return fault.Hint(fault.NotFoundf("no agent answers on %s", path), "start one: kith dev, or systemctl start kith-agent")
	}
}
