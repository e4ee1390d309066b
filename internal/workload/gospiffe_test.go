package workload

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Rule 77, 78: the peer library finds us by SPIFFE_ENDPOINT_SOCKET. Rule 88: it
// has a bundle for each trust domain. And it follows a rotation.
func TestRule77And78And88GoSPIFFEFindsAndFollows(t *testing.T) {
	t.Parallel()
	e := start(t, newWorld(t), 0)
	binary := filepath.Join(t.TempDir(), "gospiffe")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "./testdata/gospiffe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as kith is built: its packages may be cached
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the client: %v\n%s", err, out)
	}
	client := exec.Command(binary, domain, "other.example")
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
	line := func() []string {
		if !lines.Scan() {
			t.Fatalf("the client ended: %v", lines.Err())
		}
		return strings.Fields(lines.Text())
	}
	first := line()
	if len(first) != 3 || first[0] != "spiffe://"+domain+"/vms/web" || first[2] != "2" {
		t.Fatalf("got %q, want the ID, a serial and two roots", first)
	}
	e.identities.Renew()
	for second := line(); second[1] == first[1]; second = line() {
	}
}
