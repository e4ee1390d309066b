package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/platform/proof"
	"github.com/kith-id/kith/spiffe"
)

// simulated is an agent with the real proof, TLS and messages, an enforcement
// point and no workloads: it reads each delta, puts it in force and has another
// goroutine ack the newest, as a real one has.
type simulated struct {
	hosts  []string // services that it says it has enforcement points of
	point  *point
	key    *ecdsa.PrivateKey
	svid   *spiffe.X509SVID
	bundle *spiffe.Bundle
	local  net.IP // every agent is a host of its own
}

// X509SVID is the node's SVID.
func (a *simulated) X509SVID() (*spiffe.X509SVID, error) { return a.svid, nil }

// Bundle is the server's.
func (a *simulated) Bundle(spiffe.TrustDomain) (*spiffe.Bundle, bool) { return a.bundle, true }

// agentsRole joins and connects agents: agents <admin socket> <n> [<number of the
// first>]. All of them host orders, and those with the first few numbers cart. It says when all are connected, then for
// each number of agents that it reads since when they have the last change in
// force, and ends with its standard input.
func agentsRole(ctx context.Context, args []string) error {
	if len(args) != 2 && len(args) != 3 {
		return errors.New("agents SOCKET N [FIRST]")
	}
	asAgents()
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	first := 0
	if len(args) == 3 {
		if first, err = strconv.Atoi(args[2]); err != nil {
			return err
		}
	}
	conn, err := grpc.NewClient("unix://"+args[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	admin := pb.NewAdminClient(conn)
	clock, points := newClock(), make([]*point, n)
	if err := parallelN(n, 16, func(i int) (err error) { points[i], err = oneAgent(ctx, admin, clock, first+i); return err }); err != nil {
		return err
	}
	return tellSince(points)
}

// asAgents sets this process up to be many small ones: a thousand heaps in one,
// of which each alone is below the runtime's least of 4 MiB and is collected once
// in some hundred changes.
func asAgents() { debug.SetGCPercent(400) }

func oneAgent(ctx context.Context, admin pb.AdminClient, c clock, i int) (*point, error) {
	added, err := admin.AddNode(ctx, &pb.AddNodeRequest{Name: fmt.Sprintf("n%d", i), Class: "vms"})
	if err != nil {
		return nil, err
	}
	hosts := []string{"orders"}
	if i < fewAgents {
		hosts = append(hosts, "cart")
	}
	a := &simulated{hosts: hosts, point: newPoint(c, hosts), local: net.IPv4(127, 1, byte(i>>8), byte(i))}
	addr, err := a.join(ctx, added.GetJoin())
	if err != nil {
		return nil, fmt.Errorf("join n%d: %w", i, err)
	}
	return a.point, a.connect(ctx, addr)
}

// dial connects from the agent's own address.
func (a *simulated) dial(addr string, config *tls.Config) (*grpc.ClientConn, error) {
	return dialFrom(a.local, addr, config)
}

func dialFrom(local net.IP, addr string, config *tls.Config) (*grpc.ClientConn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: local}}
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", addr) }),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10), grpc.WithSharedWriteBuffer(true),
		grpc.WithStaticStreamWindowSize(1<<20), grpc.WithStaticConnWindowSize(1<<20)) // as kith agent has them
}

func isServer(id spiffe.ID) error {
	if !strings.HasPrefix(id.Path(), "/kith/server/") {
		return fmt.Errorf("%s is no server", id)
	}
	return nil
}

// exchange is the applicant's end of the admission stream.
type exchange struct {
	grpc.BidiStreamingClient[pb.AttestRequest, pb.AttestResponse]
}

// Send sends a message of the proof.
func (x exchange) Send(_ context.Context, m []byte) error {
	return x.BidiStreamingClient.Send(&pb.AttestRequest{Step: &pb.AttestRequest_Payload{Payload: m}})
}

// Recv takes the verifier's next message.
func (x exchange) Recv(context.Context) ([]byte, error) {
	in, err := x.BidiStreamingClient.Recv()
	return in.GetPayload(), err
}

func (a *simulated) join(ctx context.Context, line string) (addr string, err error) {
	parts := strings.Split(line, "/")
	if len(parts) != 3 {
		return "", fmt.Errorf("join line of %d parts", len(parts))
	}
	pin, err := spiffe.ParsePin(parts[1])
	if err != nil {
		return "", err
	}
	token, err := proof.ParseToken(parts[2])
	if err != nil {
		return "", err
	}
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return "", err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, a.key)
	if err != nil {
		return "", err
	}
	var server spiffe.ID
	conn, err := a.dial(parts[0], spiffe.PinnedClientTLS(pin, time.Now, func(id spiffe.ID) error { server = id; return isServer(id) }))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stream, err := pb.NewAdmissionClient(conn).Attest(ctx)
	if err != nil {
		return "", err
	}
	hello := &pb.Hello{Method: attest.JoinToken, Csr: csr, Version: "bench"}
	if err := stream.Send(&pb.AttestRequest{Step: &pb.AttestRequest_Hello{Hello: hello}}); err != nil {
		return "", err
	}
	x := attest.Bind(exchange{stream}, attest.Bindings{Server: server, Key: a.key.Public()})
	if err := (proof.TokenProver{Token: token}).Prove(ctx, x); err != nil {
		return "", err
	}
	answer, err := stream.Recv()
	if err != nil {
		return "", err
	}
	return parts[0], a.take(answer.GetAdmitted())
}

func (a *simulated) take(in *pb.Admitted) error {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return err
	}
	if a.svid, err = spiffe.ParseX509SVID(slices.Concat(in.GetChain()...), pkcs8); err != nil {
		return err
	}
	a.bundle, err = spiffe.ParseBundle(a.svid.ID.TrustDomain(), in.GetBundle().GetJwks())
	return err
}

// connect connects and returns when the whole state has come.
func (a *simulated) connect(ctx context.Context, addr string) error {
	conn, err := a.dial(addr, spiffe.ClientTLS(a, time.Now, isServer))
	if err != nil {
		return err
	}
	return follow(ctx, conn, a.hosts, a.point)
}

// follow opens the sync stream, puts what comes in force and acks it until it ends.
// It returns when all has come that the server had.
func follow(ctx context.Context, conn *grpc.ClientConn, hosts []string, at *point) error {
	stream, err := pb.NewNodeClient(conn).Sync(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.SyncRequest{Message: &pb.SyncRequest_Hello{Hello: &pb.SyncHello{
		Version: "bench", Interest: &pb.Interest{Number: 1, Services: hosts},
	}}}); err != nil {
		return err
	}
	ready := make(chan error, 1)
	acks := make(chan uint64, 1) // the newest revision that was not acked
	go func() {
		defer close(acks)
		for {
			in, err := stream.Recv()
			if err != nil {
				report(ready, err)
				return
			}
			if in.GetCurrent() != nil {
				report(ready, nil)
				continue
			}
			revision, err := at.apply(in)
			if err != nil {
				report(ready, err)
				return
			}
			if revision == 0 {
				continue
			}
			select {
			case <-acks: // it has not been sent, and never need be
			default:
			}
			acks <- revision
		}
	}()
	go func() {
		for revision := range acks {
			if stream.Send(&pb.SyncRequest{Message: &pb.SyncRequest_Ack{Ack: &pb.Ack{Revision: revision}}}) != nil {
				return
			}
		}
	}()
	return <-ready
}

// report notes the first outcome.
func report(outcome chan<- error, err error) {
	select {
	case outcome <- err:
	default:
	}
}

// parallelN does n things, so many at a time.
func parallelN(n, at int, do func(int) error) error {
	work, errs := make(chan int), make(chan error, at)
	for range at {
		go func() {
			for i := range work {
				if err := do(i); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	go func() {
		defer close(work)
		for i := range n {
			work <- i
		}
	}()
	for range at {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}
