// Command party is a workload that knows nothing of Kith: the SPIFFE library for
// Go. What it does and prints is said in ../../libraries/libraries_test.go.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	otherAudience = "somebody-else"
	patience      = time.Minute
	exitDenied    = 3
)

var errDenied = errors.New("no identity")

func main() {
	err := errors.New("want: serve PORT, or call AUDIENCE and PORT=ID of each callee")
	switch args := os.Args[1:]; {
	case len(args) == 2 && args[0] == "serve":
		err = serve(context.Background(), args[1])
	case len(args) >= 2 && args[0] == "call":
		err = call(context.Background(), args[1], args[2:])
	}
	switch {
	case errors.Is(err, errDenied):
		os.Exit(exitDenied)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// hears prints what watches say.
type hears struct{}

func (hears) OnX509ContextUpdate(c *workloadapi.X509Context) { printX509(c) }
func (hears) OnX509ContextWatchError(err error)              { failed("x509", err) }
func (hears) OnJWTBundlesUpdate(set *jwtbundle.Set)          { printJWTBundles(set) }
func (hears) OnJWTBundlesWatchError(err error)               { failed("jwtbundles", err) }

func failed(what string, err error) {
	if status.Code(err) == codes.PermissionDenied {
		fmt.Println("denied", what)
		return
	}
	fmt.Println("error", what, err)
}

func names[B interface{ TrustDomain() spiffeid.TrustDomain }](all []B) string {
	var out []string
	for _, b := range all {
		out = append(out, b.TrustDomain().Name())
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

func printX509(c *workloadapi.X509Context) {
	svid := c.DefaultSVID()
	fmt.Println("x509", svid.ID, svid.Certificates[0].SerialNumber.Text(16), names(c.Bundles.Bundles()))
}

func printJWTBundles(set *jwtbundle.Set) { fmt.Println("jwtbundles", names(set.Bundles())) }

func serve(ctx context.Context, port string) error {
	go func() { _ = workloadapi.WatchX509Context(ctx, hears{}) }()
	go func() { _ = workloadapi.WatchJWTBundles(ctx, hears{}) }()
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	svid, err := source.GetX509SVID()
	if err != nil {
		return err
	}
	config := tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeMemberOf(svid.ID.TrustDomain()))
	listener, err := tls.Listen("tcp", "127.0.0.1:"+port, config)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			if err := answer(conn.(*tls.Conn)); err != nil {
				fmt.Println("rejected", err)
			}
		}()
	}
}

func answer(conn *tls.Conn) error {
	if err := conn.Handshake(); err != nil {
		return err
	}
	peer, err := x509svid.IDFromCert(conn.ConnectionState().PeerCertificates[0])
	if err != nil {
		return err
	}
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		return err
	}
	_, err = fmt.Fprintf(conn, "hello %s\n", peer)
	return err
}

func call(ctx context.Context, audience string, targets []string) error {
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	current, err := client.FetchX509Context(ctx)
	if status.Code(err) == codes.PermissionDenied {
		fmt.Println("denied x509")
		return errDenied
	}
	if err != nil {
		return err
	}
	printX509(current)
	roots, err := client.FetchX509Bundles(ctx)
	if err != nil {
		return err
	}
	fmt.Println("x509bundles", names[*x509bundle.Bundle](roots.Bundles()))
	if err := tokens(ctx, client, audience); err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	for _, target := range targets {
		port, id, _ := strings.Cut(target, "=")
		said, err := ask(source, port, id)
		if err != nil {
			fmt.Println("refused", id, err)
			continue
		}
		fmt.Println("called", id, said)
	}
	return nil
}

func tokens(ctx context.Context, client *workloadapi.Client, audience string) error {
	jwt, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return err
	}
	fmt.Println("jwt", jwt.ID, strings.Join(jwt.Audience, ","))
	bundles, err := client.FetchJWTBundles(ctx)
	if err != nil {
		return err
	}
	printJWTBundles(bundles)
	local, err := jwtsvid.ParseAndValidate(jwt.Marshal(), bundles, []string{audience})
	if err != nil {
		return err
	}
	fmt.Println("verified", local.ID)
	asked, err := client.ValidateJWTSVID(ctx, jwt.Marshal(), audience)
	if err != nil {
		return err
	}
	fmt.Println("validated", asked.ID)
	_, ours := jwtsvid.ParseAndValidate(jwt.Marshal(), bundles, []string{otherAudience})
	_, theirs := client.ValidateJWTSVID(ctx, jwt.Marshal(), otherAudience)
	if ours != nil && theirs != nil {
		fmt.Println("refused-audience")
	}
	return nil
}

func ask(source *workloadapi.X509Source, port, id string) (string, error) {
	wanted, err := spiffeid.FromString(id)
	if err != nil {
		return "", err
	}
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(wanted))
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", "127.0.0.1:"+port, config)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(conn, "hi"); err != nil {
		return "", err
	}
	said, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Text(16) + " " + strings.TrimSpace(said), nil
}
