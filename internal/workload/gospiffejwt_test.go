package workload

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// The peer library's JWTSource fetches from us, validates what it got by itself
// and by us, and follows the keys.
func TestGoSPIFFEJWTSource(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ev.Matches = append(w.ev.Matches, registry.Match{Rule: "b", ID: mustID("spiffe://" + domain + "/vms/second"), Hint: "second"})
	e := start(t, w, 0)
	binary := filepath.Join(t.TempDir(), "gospiffejwt")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "./testdata/gospiffejwt")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as kith is built: its packages may be cached
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the client: %v\n%s", err, out)
	}
	client := exec.Command(binary)
	client.Env = append(os.Environ(), "SPIFFE_ENDPOINT_SOCKET=unix://"+e.path)
	stdin, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		stdin.Close()
		if err := client.Wait(); err != nil {
			t.Errorf("client: %v", err)
		}
	}()
	lines := bufio.NewScanner(stdout)
	ask := func(audience string) string {
		if _, err := fmt.Fprintln(stdin, audience); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() {
			t.Fatalf("the client ended: %v", lines.Err())
		}
		return lines.Text()
	}
	id := "spiffe://" + domain + "/vms/web"
	if got, want := ask("orders"), id+" 2 1"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	own := mustID(id).TrustDomain()
	w.change(func() {
		w.bundles = spiffe.BundleMap{own: withJWTKey(t, w.bundles[own], "next", w.jwtKey)}
		w.forge = func(f *jwtForm) { f.Kid = "next" }
	})
	for i := 0; ; i++ { // until its source has heard of the new key
		if got := ask(fmt.Sprint("billing", i)); got == id+" 2 2" {
			break
		} else if i == 50 {
			t.Fatalf("got %q with a new key", got)
		}
	}
}
