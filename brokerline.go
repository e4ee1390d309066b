package kith

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

const (
	brokerVariable  = "SPIFFE_BROKER_SOCKET"
	brokerForms     = "write unix:///run/kith/broker/broker.sock, or tcp://host:port"
	maxBrokerHeader = 64 << 10
)

// brokerAddress is where a Broker Endpoint is.
type brokerAddress struct {
	unix    bool
	address string // a path, or host:port
	local   bool   // of this host for certain
}

// String is the address as a URI.
func (a brokerAddress) String() string {
	if a.unix {
		return "unix://" + a.address
	}
	return "tcp://" + a.address
}

// carries says whether a reference may be sent there. Broker API 3.1.2: a client
// ensures that a process id never goes to another node.
func (a brokerAddress) carries(ref spiffe.Reference) error {
	if ref.PID() != 0 && !a.local {
		return fault.Hint(fault.Invalidf("%s: process ids mean something on this node only, and that endpoint may be on another", a),
			"call it by unix:///… or by an address of loopback")
	}
	return nil
}

// findBroker is the endpoint: as configured, else by the environment. Broker
// Endpoint 4.
func findBroker(configured string) (brokerAddress, error) {
	from, value := "broker endpoint", configured
	if value == "" {
		from, value = brokerVariable, os.Getenv(brokerVariable)
	}
	if value == "" {
		return brokerAddress{}, fault.Hint(fault.NotFoundf("no broker endpoint: %s is not set", brokerVariable), brokerForms)
	}
	invalid := func(why string) (brokerAddress, error) {
		return brokerAddress{}, fault.Hint(fault.Invalidf("%s: %q %s", from, clip(value, maxReportShort), why), brokerForms)
	}
	u, err := url.Parse(value)
	switch {
	case err != nil:
		return invalid("is no URI")
	case u.Scheme != "unix" && u.Scheme != "tcp":
		return invalid("is of scheme " + strconv.Quote(u.Scheme) + ", and unix or tcp is wanted")
	case u.User != nil || strings.ContainsAny(value, "?#"):
		return invalid("has a user, a query or a fragment")
	case u.Scheme == "unix" && u.Host != "":
		return invalid("has an authority: a path begins with three slashes")
	case u.Scheme == "unix" && !strings.HasPrefix(u.Path, "/"):
		return invalid("has no absolute path")
	case u.Scheme == "unix" && (len(u.Path) > maxSocketPath || strings.ContainsRune(u.Path, 0)):
		return invalid(fmt.Sprintf("is too long a path, %d bytes fit", maxSocketPath))
	case u.Scheme == "unix":
		return brokerAddress{unix: true, address: u.Path, local: true}, nil
	case u.Path != "" || u.Opaque != "":
		return invalid("has a path, or two slashes too few")
	}
	host, port := u.Hostname(), u.Port()
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return invalid("has no port")
	}
	ip, err := netip.ParseAddr(host)
	if err != nil && !hostName(host) || ip.Zone() != "" && !hostName(ip.Zone()) {
		return invalid("has no host: an IP address or a name")
	}
	local := err == nil && ip.IsLoopback() || err != nil && strings.EqualFold(host, "localhost")
	return brokerAddress{address: net.JoinHostPort(host, port), local: local}, nil
}

// hostName says whether a name is of the form that DNS has.
func hostName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		ok := label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
		if !ok || strings.ContainsFunc(label, func(r rune) bool {
			return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		}) {
			return false
		}
	}
	return true
}

// dial makes a connection that shows our leaf of now.
func (b *Broker) dial(leaf string) (*brokerLine, error) {
	line := &brokerLine{leaf: leaf}
	config := spiffe.ClientTLS(b.w, b.w.cfg.Now, func(id spiffe.ID) error {
		if id != b.expect {
			return otherBroker{id, b.expect}
		}
		return nil
	})
	config.NextProtos = []string{"h2"}
	// gRPC calls every failure "unavailable"; somebody else's endpoint is none to try
	// again.
	verify := config.VerifyConnection
	config.VerifyConnection = func(state tls.ConnectionState) error {
		err := verify(state)
		line.other.Store(nil)
		if err != nil {
			line.other.Store(&err)
		}
		return err
	}
	network := "tcp"
	if b.at.unix {
		network = "unix"
	}
	// The address is none of gRPC's to read: it would take what follows a ? or # of a
	// path for something else, and a % for an escape.
	conn, err := grpc.NewClient("passthrough:///broker",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			dialer := net.Dialer{Timeout: dialTimeout}
			return dialer.DialContext(ctx, network, b.at.address)
		}),
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithNoProxy(),
		grpc.WithAuthority("localhost"),
		grpc.WithMaxHeaderListSize(maxBrokerHeader),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAgentMessage)),
		grpc.WithConnectParams(agentBackoff()),
		grpc.WithDisableServiceConfig(), // who may retry what is said here
	)
	line.conn = conn
	return line, err
}

// otherBroker is an endpoint that has proved to be somebody else.
type otherBroker struct{ is, expected spiffe.ID }

// Error says who.
func (e otherBroker) Error() string {
	return fmt.Sprintf("the endpoint is %s, and %s is expected", e.is, e.expected)
}

// brokerRequest is a question about a workload, in the standard's form.
func brokerRequest(ref spiffe.Reference) (*pb.BrokerRequest, error) {
	var name string
	var message proto.Message
	if o, ok := ref.Object(); ok {
		object := &pb.BrokerObject{Type: &pb.BrokerObjectType{Plural: o.Plural, Group: o.Group}, Uid: o.UID}
		if o.Name != "" {
			object.Key = &pb.BrokerObjectKey{Namespace: o.Namespace, Name: o.Name}
		}
		name, message = "KubernetesObjectReference", object
	} else if ref.PID() > 0 {
		name, message = "WorkloadPIDReference", &pb.BrokerProcess{Pid: ref.PID()}
	} else {
		return nil, fault.Invalidf("the question is about nobody")
	}
	value, err := proto.Marshal(message)
	if err != nil {
		return nil, err
	}
	packed := &anypb.Any{TypeUrl: "type.googleapis.com/spiffe.broker." + name, Value: value}
	return &pb.BrokerRequest{Reference: &pb.BrokerReference{Reference: packed}}, nil
}

// explain gives an answer its kind, and the next thing to do. Broker API 4.8: the
// reasons may be there, and the code alone has to do.
func (b *Broker) explain(what string, ref spiffe.Reference, err error, other *error) error {
	doing := fmt.Sprintf("fetch %s of %s", what, ref)
	if other != nil {
		hint := "kith doctor"
		if errors.As(*other, new(otherBroker)) {
			hint = "--expect names whose endpoint it is; kith nodes has the names of nodes"
		}
		return fault.Hint(fault.Deniedf("%s: %w", doing, *other), "%s", hint)
	}
	s := status.Convert(err)
	failed := fmt.Errorf("%s: %s", doing, clip(s.Message(), maxReportText))
	if s.Code() == codes.Unavailable || s.Code() == codes.DeadlineExceeded {
		return fault.Hint(fmt.Errorf("%s at %s: %w", doing, b.at, err), "features.broker must be on there; kith status")
	}
	switch reason := brokerReason(s); {
	case s.Code() == codes.NotFound:
		return fault.Hint(fault.Wrap(fault.NotFound, failed), "%s", hintOfAbsent(ref))
	case reason == "WORKLOAD_NOT_ENTITLED":
		return fault.Hint(fault.Wrap(fault.Denied, failed), "%s", hintOfEntitled(ref))
	case s.Code() == codes.PermissionDenied:
		return fault.Hint(fault.Wrap(fault.Denied, failed), "agent.broker.allow in kith.yaml of the node says who may, and for whom: docs/broker.md")
	case s.Code() == codes.Unauthenticated:
		return fault.Hint(fault.Wrap(fault.Denied, failed), "kith doctor")
	case reason == "WORKLOAD_REFERENCE_INVALID":
		return fault.Hint(fault.Wrap(fault.Invalid, failed), "name a process of this node by the number it has outside of containers (--pid), or a pod where the agent knows its kubelet: docs/kubernetes.md")
	case s.Code() == codes.InvalidArgument:
		return fault.Wrap(fault.Invalid, failed)
	case s.Code() == codes.Unimplemented:
		return fault.Hint(fault.Wrap(fault.Invalid, failed), "that is no SPIFFE Broker Endpoint, or it has this turned off")
	}
	return failed
}

// brokerReason is the standard's word for why a question was refused, or "".
func brokerReason(s *status.Status) string {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "spiffe.io" {
			return info.GetReason()
		}
	}
	return ""
}

func hintOfAbsent(ref spiffe.Reference) string {
	if ref.PID() != 0 {
		return fmt.Sprintf("ps -p %d", ref.PID())
	}
	return "the object must be there now, and its uid be the one that is named"
}

func hintOfEntitled(ref spiffe.Reference) string {
	if ref.PID() != 0 {
		return fmt.Sprintf("kith ids explain --pid %d, and agent.broker.allow says for whom one may ask", ref.PID())
	}
	return "agent.broker.allow says for whom one may ask"
}
