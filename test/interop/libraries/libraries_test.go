//go:build interop

// Package libraries holds the SPIFFE libraries of four languages, unmodified,
// beside the built kith server and agent.
//
// Each has a program in ../golang, ../java, ../python and ../rust that does the
// same with its library and prints one line for each thing that happens:
//
//	serve PORT                       x509 ID SERIAL BUNDLES    at each update of the watched X.509 context
//	                                 jwtbundles BUNDLES        at each update of the watched JWT bundles
//	                                 denied x509|jwtbundles    PermissionDenied on one of the two streams
//	                                 listening                 for mutual TLS, anybody of the own trust domain
//	call AUDIENCE PORT=ID...         x509, x509bundles, jwt, jwtbundles: what was fetched
//	                                 verified ID               its own JWT-SVID, by the library and the fetched bundles
//	                                 validated ID              the same, by the Workload API
//	                                 refused-audience          both refuse it for another audience
//	                                 called ID SERIAL hello ME mutual TLS with ID, who saw ME
//	                                 refused ID REASON         at PORT is somebody else
//	                                 denied x509               and exit 3: there is no identity
package libraries

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

const (
	own, theirs = "acme.example", "beta.example"
	audience    = "orders"
	exitDenied  = 3
	firstGroup  = 61001 // of languages' programs: an identity rule knows each by its group
	// patience is for what starts a JVM on a machine that is busy with others.
	patience = 4 * time.Minute
)

// languages in the order of their groups.
func languages() []string { return []string{"golang", "java", "python", "rust"} }

func idOf(language string) string { return "spiffe://" + own + "/vms/" + language }

// build builds the four programs, at the same time.
var build = sync.OnceValues(func() (map[string][]string, error) {
	commands := make(map[string][]string)
	var all []error
	var mu sync.Mutex
	var building sync.WaitGroup
	for _, language := range languages() {
		building.Go(func() {
			cmd := exec.Command("../../../scripts/library", language)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			mu.Lock()
			defer mu.Unlock()
			commands[language] = strings.Fields(string(out))
			if err != nil {
				all = append(all, fmt.Errorf("build test/interop/%s: %w", language, err))
			}
		})
	}
	building.Wait()
	return commands, errors.Join(all...)
})

// party is a host with a server, an agent and the programs.
type party struct {
	*lab.Host
	t        *testing.T
	agent    *lab.Process
	commands map[string][]string
	ports    map[string]int
	servers  map[string]*lab.Process
}

func newParty(t *testing.T) *party {
	t.Helper()
	commands, err := build()
	if err != nil {
		t.Fatal(err)
	}
	p := &party{Host: lab.NewHost(t), t: t, commands: commands, ports: make(map[string]int), servers: make(map[string]*lab.Process)}
	p.agent = p.Joined(own)
	p.Setenv("SPIFFE_ENDPOINT_SOCKET=unix://" + p.AgentSocket())
	p.federate()
	p.admit(languages()...)
	return p
}

// federate makes the own trust domain trust another one, by a bundle from a file.
func (p *party) federate() {
	p.t.Helper()
	other := lab.NewHost(p.t)
	other.WriteConfig(fmt.Sprintf("trust_domain: %s\nserver: {listen: \"127.0.0.1:%d\", metrics: \"\"}\n", theirs, lab.Port(p.t)))
	server := other.Start("kith", "server")
	other.WaitReady(server)
	bundle := p.WriteFile("theirs.json", other.Kith("federate", "bundle"))
	server.Stop()
	p.Kith("federate", "add", theirs, "--url", "https://bundles."+theirs+"/", "--bundle", bundle)
}

// admit leaves identity rules for these languages alone.
func (p *party) admit(languages_ ...string) {
	p.t.Helper()
	var state strings.Builder
	state.WriteString("owner: parties\nidentities:\n  - {name: nobody, nodes: [vms], id: /vms/nobody, require: 'workload.unix.gid == 1'}\n")
	for i, language := range languages() {
		for _, admitted := range languages_ {
			if admitted == language {
				fmt.Fprintf(&state, "  - {name: %s, nodes: [vms], id: /vms/%[1]s, require: 'workload.unix.gid == %d'}\n", language, firstGroup+i)
			}
		}
	}
	p.Kith("apply", "--prune", "-f", p.WriteFile("state.yaml", state.String()))
}

// start runs a language's program in its group.
func (p *party) start(language string, args ...string) *lab.Process {
	p.t.Helper()
	for i, l := range languages() {
		if l == language {
			all := append([]string{"--regid", fmt.Sprint(firstGroup + i), "--clear-groups", "--"}, p.commands[language]...)
			return p.Start("setpriv", append(all, args...)...)
		}
	}
	p.t.Fatalf("no language %s", language)
	return nil
}

// await waits until the program has printed a line that begins with these words.
func (p *party) await(process *lab.Process, words string) {
	p.t.Helper()
	lab.Eventually(p.t, patience, words, func() error {
		process.KeepRunning(p.t)
		if len(lines(process.Output(), words)) == 0 {
			return errors.New("not printed yet")
		}
		return nil
	})
}

// lines are what follows these words, in each line that begins with them.
func lines(output, words string) (rest []string) {
	for line := range strings.Lines(output) {
		if after, ok := strings.CutPrefix(strings.TrimSpace(line), words); ok && (after == "" || after[0] == ' ') {
			rest = append(rest, strings.TrimSpace(after))
		}
	}
	return rest
}

// serial is the newest certificate that a serving program was told of.
func (p *party) serial(language string) string {
	updates := lines(p.servers[language].Output(), "x509 "+idOf(language))
	if len(updates) == 0 {
		return ""
	}
	serial, _, _ := strings.Cut(updates[len(updates)-1], " ")
	return serial
}

// call runs a language's caller to its end.
func (p *party) call(language string) (output string, code int) {
	p.t.Helper()
	args := []string{"call", audience}
	for _, callee := range languages() {
		args = append(args, fmt.Sprintf("%d=%s", p.ports[callee], idOf(callee)))
	}
	args = append(args, fmt.Sprintf("%d=%s", p.ports["golang"], idOf("nobody")))
	caller := p.start(language, args...)
	select {
	case <-caller.Done():
	case <-time.After(patience):
		p.t.Fatalf("%s has not ended:\n%s", language, caller.Output())
	}
	return caller.Output(), caller.ExitCode()
}

// expect compares what a caller printed with what it is to have seen; serials are
// those of the callees.
func (p *party) expect(language string) error {
	p.t.Helper()
	output, code := p.call(language)
	if code != 0 {
		return fmt.Errorf("exit %d:\n%s", code, output)
	}
	me, both := idOf(language), own+","+theirs
	want := []string{
		"x509bundles " + both, "jwt " + me + " " + audience, "jwtbundles " + both,
		"verified " + me, "validated " + me, "refused-audience", "refused " + idOf("nobody"),
	}
	for _, callee := range languages() {
		want = append(want, fmt.Sprintf("called %s %s hello %s", idOf(callee), p.serial(callee), me))
	}
	if x509 := lines(output, "x509 "+me); len(x509) != 1 || !strings.HasSuffix(x509[0], " "+both) {
		return fmt.Errorf("it was given %q as %s:\n%s", x509, me, output)
	}
	for _, words := range want {
		if len(lines(output, words)) != 1 {
			return fmt.Errorf("it did not print %q once:\n%s", words, output)
		}
	}
	return nil
}

// TestLibrariesOfFourLanguages lets each fetch and watch, and shake hands with
// each by mutual TLS in both roles; then all certificates are renewed, then taken
// away. Rules 84, 85, 88 and 93.
func TestLibrariesOfFourLanguages(t *testing.T) {
	p := newParty(t)
	both := own + "," + theirs
	for _, language := range languages() {
		p.ports[language] = lab.Port(t)
		p.servers[language] = p.start(language, "serve", fmt.Sprint(p.ports[language]))
	}
	for language, server := range p.servers {
		for _, words := range []string{"x509 " + idOf(language), "jwtbundles " + both, "listening"} {
			p.await(server, words)
		}
	}
	for _, language := range languages() {
		if err := p.expect(language); err != nil {
			t.Errorf("%s calls everybody: %v", language, err)
		}
	}
	p.strangerIsRefused()

	p.renew()
	for _, language := range languages() {
		if err := p.expect(language); err != nil {
			t.Errorf("%s calls everybody once certificates are renewed: %v", language, err)
		}
	}

	p.admit() // nobody
	for language, server := range p.servers {
		for _, stream := range []string{"x509", "jwtbundles"} {
			p.await(server, "denied "+stream)
		}
		if output, code := p.call(language); code != exitDenied || len(lines(output, "denied x509")) != 1 {
			t.Errorf("%s without an identity: got exit %d, want %d and its words:\n%s", language, code, exitDenied, output)
		}
	}
	p.admit(languages()...)
	lab.Eventually(t, patience, "Go calls everybody with its identity back", func() error { return p.expect("golang") })
}

// strangerIsRefused asks each server without a certificate.
func (p *party) strangerIsRefused() {
	p.t.Helper()
	for language, port := range p.ports {
		r := p.Try("bash", "-c", fmt.Sprintf("echo hi | openssl s_client -quiet -ign_eof -connect 127.0.0.1:%d 2>&1", port))
		if strings.Contains(r.Stdout, "hello") || !strings.Contains(r.Stdout, "alert") {
			p.t.Errorf("%s answers a caller without a certificate: %s", language, r.Stdout)
		}
	}
}

// renew has every certificate renewed, and waits until each server shows its new
// one.
func (p *party) renew() {
	p.t.Helper()
	before := make(map[string]string)
	for _, language := range languages() {
		before[language] = p.serial(language)
	}
	p.agent.Signal(syscall.SIGHUP)
	for _, language := range languages() {
		lab.Eventually(p.t, patience, language+" hears of its new certificate", func() error {
			if now := p.serial(language); now == before[language] {
				return errors.New("still " + now)
			}
			return nil
		})
	}
	lab.Eventually(p.t, patience, "each server shows its new certificate", func() error { return p.expect("golang") })
}
