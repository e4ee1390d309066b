// Command gospiffejwt is the peer library as a client of our Workload API's JWT
// profile: for each line of standard input, an audience, it fetches a JWT-SVID
// from its JWTSource, validates it by itself with the source's bundles and by
// the agent, and prints the ID, the kid and how many keys its bundle has. It is
// a program of its own because both sides register the standard's messages
// under the same names.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	source, err := workloadapi.NewJWTSource(ctx) // finds SPIFFE_ENDPOINT_SOCKET
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	defer source.Close()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := fetch(ctx, source, lines.Text()); err != nil {
			fmt.Println("error", err)
		}
	}
}

func fetch(ctx context.Context, source *workloadapi.JWTSource, audience string) error {
	svids, err := source.FetchJWTSVIDs(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return err
	}
	token := svids[0].Marshal()
	own, err := jwtsvid.ParseAndValidate(token, source, []string{audience})
	if err != nil {
		return err
	}
	theirs, err := workloadapi.ValidateJWTSVID(ctx, token, audience)
	if err != nil {
		return err
	}
	if own.ID != theirs.ID || own.ID != svids[0].ID || theirs.Claims["sub"] != own.ID.String() {
		return fmt.Errorf("%s, %s and %s", svids[0].ID, own.ID, theirs.ID)
	}
	bundle, err := source.GetJWTBundleForTrustDomain(own.ID.TrustDomain())
	if err != nil {
		return err
	}
	if _, err := workloadapi.ValidateJWTSVID(ctx, token, audience+"x"); err == nil {
		return fmt.Errorf("the agent takes it for somebody else")
	}
	fmt.Println(own.ID, len(svids), len(bundle.JWTAuthorities()))
	return nil
}
