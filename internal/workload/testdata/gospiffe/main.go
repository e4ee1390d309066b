// Command gospiffe is the peer library as a client of our Workload API: it
// prints a line for each state of its X509Source until standard input ends. It
// is a program of its own because both sides register the standard's messages
// under the same names.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	source, err := workloadapi.NewX509Source(ctx) // finds SPIFFE_ENDPOINT_SOCKET
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	defer source.Close()
	for {
		svid, err := source.GetX509SVID()
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		bundles := 0
		for _, td := range os.Args[1:] {
			if b, err := source.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString(td)); err == nil {
				bundles += len(b.X509Authorities())
			}
		}
		fmt.Println(svid.ID, svid.Certificates[0].SerialNumber, bundles)
		if source.WaitUntilUpdated(ctx) != nil {
			return
		}
	}
}
