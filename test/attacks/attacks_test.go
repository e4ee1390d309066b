//go:build attacks

// Package attacks does to running kith processes what must fail: each test has
// the number of an attack in docs/security.md, which is made from its catalogue.
package attacks

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// TestMain lets the test binary play an attacker who runs as another user.
func TestMain(m *testing.M) {
	if role := os.Getenv("ATTACK_ROLE"); role != "" {
		if err := play(role, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func play(role string, args []string) error {
	run, ok := roles()[role]
	if !ok {
		return fmt.Errorf("unknown role %q", role)
	}
	return run(args)
}

// stranger and victim are users that nothing belongs to.
const (
	stranger = "42424"
	victim   = "42425"
)

// asUser is a command line that runs another one as a user without rights.
func asUser(uid string, command ...string) []string {
	return append([]string{"--reuid", uid, "--regid", uid, "--clear-groups", "--"}, command...)
}

// self is the command line that makes a copy of this binary play a role.
func self(t *testing.T, h *lab.Host, role string, args ...string) []string {
	t.Helper()
	return append([]string{"env", "ATTACK_ROLE=" + role, copied(t, h, os.Args[0], "attacker")}, args...)
}

// program is kith where every user can run it.
func program(t *testing.T, h *lab.Host) string {
	t.Helper()
	bin, err := lab.Binary()
	if err != nil {
		t.Fatal(err)
	}
	return copied(t, h, bin, "kith")
}

// copied puts a program into the host's directory: others may not enter the one
// it was built in.
func copied(t *testing.T, h *lab.Host, from, name string) string {
	t.Helper()
	to := filepath.Join(h.Dir, name)
	if _, err := os.Stat(to); err == nil {
		return to
	}
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

// stage is a service behind its proxy in a trust domain of its own, and a caller
// who has an SVID and writes what bytes it likes.
type stage struct {
	t    *testing.T
	h    *lab.Host
	addr string // where the service is exposed
	svid tls.Certificate
}

// newStage exposes the program on port as service orders. The caller is web.
func newStage(t *testing.T, port int) *stage {
	t.Helper()
	h := lab.NewHost(t)
	h.Dev()
	s := &stage{t: t, h: h, svid: getSVID(t, h, "web")}
	s.addr = s.expose("orders", port)
	return s
}

func (s *stage) expose(service string, port int) string {
	s.t.Helper()
	exposed := lab.Port(s.t)
	p := s.h.Start("kith", "run", "--as", service, "--expose", fmt.Sprintf("127.0.0.1:%d=%d", exposed, port), "--", "sleep", "infinity")
	s.h.WaitPort(exposed)
	lab.Eventually(s.t, lab.Soon, service+" is registered", func() error {
		if out := s.h.Kith("services", "-o", "json"); !strings.Contains(out, fmt.Sprintf(":%d", exposed)) {
			return fmt.Errorf("services: %s\nrun: %s", out, p.Output())
		}
		return nil
	})
	return fmt.Sprintf("127.0.0.1:%d", exposed)
}

// getSVID takes a workload's SVID out of the Workload API.
func getSVID(t *testing.T, h *lab.Host, name string) tls.Certificate {
	t.Helper()
	dir := filepath.Join(h.Dir, "svid-"+name)
	h.Kith("get", "svid", "--as", name, "--dir", dir)
	var chain []byte
	for _, file := range []string{"svid.pem", "chain.pem"} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, text...)
	}
	key, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	svid, err := tls.X509KeyPair(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	return svid
}

// allow adds rules on orders for web.
func (s *stage) allow(actions ...string) { s.rule("allow", actions...) }
func (s *stage) deny(actions ...string)  { s.rule("deny", actions...) }

func (s *stage) rule(verb string, actions ...string) {
	s.t.Helper()
	s.h.Kith(append(append([]string{verb, "web"}, actions...), "on", "orders")...)
}

// dial is a raw connection under mutual TLS.
func (s *stage) dial(protos ...string) (*tls.Conn, error) {
	dialer := &net.Dialer{Timeout: lab.Soon}
	return tls.DialWithDialer(dialer, "tcp", s.addr, &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{s.svid}, NextProtos: protos,
	})
}

// dialTCP is a connection without a word of TLS.
func (s *stage) dialTCP() (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", s.addr, lab.Soon)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(patience())
}

// mustFail runs a command that must not succeed and returns all it said.
func mustFail(t *testing.T, h *lab.Host, what, name string, args ...string) string {
	t.Helper()
	r := h.Try(name, args...)
	if r.Code == 0 {
		t.Errorf("%s succeeded: %s", what, r.Stdout)
	}
	return r.Stdout + r.Stderr
}

// ended says whether a read failed for another reason than the deadline.
func ended(err error) bool {
	var network net.Error
	return err != nil && (!errors.As(err, &network) || !network.Timeout())
}

// patience bounds reads that nobody may have to answer.
func patience() time.Time { return time.Now().Add(lab.Soon) }
