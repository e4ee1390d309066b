package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

// far is a server elsewhere and who we are there; the zero value means the
// server of this host.
type far struct {
	address string // host:port of its admin listener
	dir     string // holds the admin SVID
	renewed bool   // tried once, by this process
}

// locateServer reads --server and --admin-svid, else their variables. What runs
// on this host has no use for them: the flag is refused there, the variable is
// for the other verbs.
func (a *app) locateServer(cmd *cobra.Command) error {
	value := func(flag, variable string) string {
		if f := cmd.Flags().Lookup(flag); f != nil && f.Changed {
			return f.Value.String()
		}
		return os.Getenv(variable)
	}
	a.far = far{dir: value("admin-svid", "KITH_ADMIN_SVID")}
	if a.far.dir == "" {
		a.far.dir = filepath.Join(a.paths.State, "admin")
	}
	if !asksServer(cmd) {
		if f := cmd.Flags().Lookup("server"); f != nil && f.Changed {
			return usagef(cmd, "--server is for the verbs that ask a server; %s works on this host", cmd.CommandPath())
		}
		return nil
	}
	address := value("server", "KITH_SERVER")
	if address == "" {
		return nil
	}
	if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
		return fault.Hint(fault.Invalidf("server %q: want host:port, that of its admin listener", address),
			"--server control.acme.example:8444, or KITH_SERVER")
	}
	a.far.address = address
	return nil
}

// asksServer says whether a verb does its work by asking a server.
func asksServer(cmd *cobra.Command) bool {
	path := strings.Fields(cmd.CommandPath())
	if len(path) < 2 {
		return false
	}
	switch path[1] {
	case "ids":
		return !slices.Contains(path, "explain") // it asks the agent
	case "allow", "apply", "curl", "deny", "doctor", "federate", "nodes", "plan", "rules", "services", "status", "watch", "why":
		return true
	}
	return false
}

// adminSource is an admin SVID with the roots it came with.
type adminSource struct {
	svid   *spiffe.X509SVID
	bundle *spiffe.Bundle
}

// X509SVID is the admin SVID.
func (s adminSource) X509SVID() (*spiffe.X509SVID, error) { return s.svid, nil }

// Bundle is the roots of the admin's trust domain.
func (s adminSource) Bundle(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	return s.bundle, td == s.bundle.TrustDomain()
}

func (s adminSource) name() string { return strings.TrimPrefix(s.svid.ID.Path(), "/kith/admin/") }

// pastHalf says whether it is time to renew.
func (s adminSource) pastHalf(now time.Time) bool {
	leaf := s.svid.Certificates[0]
	return now.After(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2))
}

// streamFar asks a server elsewhere, as an admin. An SVID past half its life is
// renewed on the way.
func (a *app) streamFar(ctx context.Context, ask func(context.Context, grpc.ClientConnInterface) error) error {
	source, err := loadAdmin(a.far.dir)
	if err != nil {
		return err
	}
	if end := source.svid.Expiry(); !a.now().Before(end) {
		err := fault.Deniedf("the SVID of admin %s ended %s ago", source.name(), short(a.now().Sub(end)))
		return fault.Hint(err, "get a new line from another admin, or on the server's host: kith ids admins add %s; then kith join --admin LINE", source.name())
	}
	conn, err := dialFar(a.far.address, spiffe.ClientTLS(source, a.now, serverOf(source.svid.ID.TrustDomain())))
	if err != nil {
		return err
	}
	defer conn.Close()
	if source.pastHalf(a.now()) && !a.far.renewed {
		a.far.renewed = true
		if err := a.renewAdmin(ctx, pb.NewAdminClient(conn), source); err != nil {
			// Asking goes on: the SVID is still good, and the server may tell why.
			fmt.Fprintf(a.stderr, "warning: admin SVID not renewed, %s left: %v\n", short(source.svid.Expiry().Sub(a.now())), err)
		}
	}
	return explainFar(ask(ctx, conn), a.far.address)
}

func (a *app) renewAdmin(ctx context.Context, client pb.AdminClient, source adminSource) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	key, ok := source.svid.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return fmt.Errorf("key of type %T", source.svid.PrivateKey)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	in, err := client.RenewAdmin(ctx, &pb.RenewAdminRequest{Csr: csr})
	if err != nil {
		return explainFar(err, a.far.address)
	}
	fresh, err := admittedAdmin(in, key)
	if err != nil {
		return err
	}
	if fresh.svid.ID != source.svid.ID {
		return fmt.Errorf("the server renewed %s as %s", source.svid.ID, fresh.svid.ID)
	}
	return fresh.write(a.far.dir)
}

// admittedAdmin reads what a server signed.
func admittedAdmin(in *pb.AdmittedAdmin, key *ecdsa.PrivateKey) (adminSource, error) {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return adminSource{}, err
	}
	svid, err := spiffe.ParseX509SVID(slices.Concat(in.GetChain()...), pkcs8)
	if err != nil {
		return adminSource{}, fmt.Errorf("admin SVID from the server: %w", err)
	}
	bundle, err := spiffe.ParseBundle(svid.ID.TrustDomain(), in.GetBundle().GetJwks())
	if err != nil {
		return adminSource{}, fmt.Errorf("bundle from the server: %w", err)
	}
	return adminSource{svid, bundle}, nil
}

// serverOf accepts the servers of one trust domain; of any for the zero one.
func serverOf(td spiffe.TrustDomain) func(spiffe.ID) error {
	return func(id spiffe.ID) error {
		if !strings.HasPrefix(id.Path(), "/kith/server/") || !td.IsZero() && id.TrustDomain() != td {
			return fmt.Errorf("%s is not a server of %s", id, td)
		}
		return nil
	}
}

func dialFar(address string, config *tls.Config) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{Timeout: callLimit}).DialContext(ctx, "tcp", address)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)))
	if err != nil {
		return nil, fault.Invalidf("server address %q: %w", address, err)
	}
	return conn, nil
}

// explainFar turns the error of a call to a server elsewhere into one for people.
func explainFar(err error, address string) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	const port = "the port is that of server.admin_listen in the server's kith.yaml, not the nodes'"
	switch s.Code() {
	case codes.Unavailable:
		return explainGone(s.Message(), address)
	case codes.DeadlineExceeded:
		return fault.Hint(fmt.Errorf("server %s did not answer in time", address), "is the port open? %s", port)
	case codes.Canceled:
		return context.Canceled
	case codes.Unimplemented:
		return fault.Hint(fmt.Errorf("server %s does not know this question", address), "%s; or it is of another version than this kith", port)
	}
	return api.FromWire(err)
}

// explainGone keeps the end of gRPC's nested texts, which says what happened.
func explainGone(text, address string) error {
	if i := strings.LastIndex(text, "desc = "); i >= 0 {
		text = text[i+len("desc = "):]
	}
	text = strings.Trim(text, `"`)
	away := api.Away{Err: fmt.Errorf("server %s: %s", address, strings.TrimPrefix(text, "transport: "))}
	switch {
	case strings.Contains(text, "while dialing"):
		away.Err = fmt.Errorf("server %s cannot be reached: %s", address, strings.TrimPrefix(text, "transport: Error while dialing: "))
		return fault.Hint(away, "is server.admin_listen set in its kith.yaml, and the port open?")
	case strings.Contains(text, "authentication handshake failed"):
		return fault.Hint(away, "is it the server that kith join --admin was run for? --admin-svid names another directory")
	}
	return fault.Hint(away, "the connection was cut: the server stopped, or this admin was removed; try again")
}

// joinAdmin is kith join --admin: it ends when the admin's SVID is on disk.
func (a *app) joinAdmin(ctx context.Context, text string) error {
	const again = "copy the whole line that kith ids admins add NAME --role ROLE printed"
	line, err := parseJoin(text)
	if err != nil {
		return fault.Hint(err, again)
	}
	token, err := base64.RawURLEncoding.Strict().DecodeString(line.token)
	if err != nil || len(token) != 32 || len(line.token) != base64.RawURLEncoding.EncodedLen(32) {
		return fault.Hint(fault.Invalidf("malformed admin token"), again)
	}
	// Whatever can go wrong here goes wrong before the token is spent.
	if err := a.clearAdminDir(); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	conn, err := dialFar(line.server, spiffe.PinnedClientTLS(line.pin, a.now, serverOf(spiffe.TrustDomain{})))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	in, err := pb.NewAdminAdmissionClient(conn).JoinAdmin(ctx, &pb.JoinAdminRequest{Token: token, Csr: csr})
	if status.Code(err) == codes.Unimplemented {
		return fault.Hint(fmt.Errorf("server %s takes no admins on this port", line.server), "is it a node's line? kith join without --admin; else %s", again)
	}
	if err != nil {
		return explainFar(err, line.server)
	}
	joined, err := admittedAdmin(in, key)
	if err != nil {
		return err
	}
	if err := joined.write(a.far.dir); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "joined as admin %s, role %s, %s; kept in %s\nnext: export KITH_SERVER=%s, then kith status\n",
		in.GetName(), in.GetRole(), joined.svid.ID, a.far.dir, line.server)
	return nil
}

// clearAdminDir makes the directory, and refuses to lose another identity.
func (a *app) clearAdminDir() error {
	if err := makePrivate(a.far.dir); err != nil {
		return err
	}
	old, err := loadAdmin(a.far.dir)
	if err == nil && a.now().Before(old.svid.Expiry()) {
		err := fault.Conflictf("%s holds the SVID of %s, which is good for another %s", a.far.dir, old.svid.ID, short(old.svid.Expiry().Sub(a.now())))
		return fault.Hint(err, "--admin-svid with another directory; or remove that one, if you want to")
	}
	probe, err := os.CreateTemp(a.far.dir, ".probe-*")
	if err != nil {
		return fmt.Errorf("directory of the admin SVID: %w", err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}
