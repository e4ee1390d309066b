//go:build attacks

package attacks

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// roles are what the test binary plays as another user.
func roles() map[string]func(args []string) error {
	return map[string]func(args []string) error{
		"hold":  func(args []string) error { return hold(args[0], args[1]) },
		"blind": func(args []string) error { return blind(args[0], args[1]) },
		"squat": func(args []string) error { return squat(args[0]) },
		"hand":  func(args []string) error { return hand(args[0], args[1], args[2]) },
		"asks":  func(args []string) error { return asks(args[0]) },
	}
}

// hold opens connections to a unix socket and keeps those it gets.
func hold(path, number string) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	var held []net.Conn
	for range n {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err == nil {
			held = append(held, conn)
		}
	}
	var kept atomic.Int64
	var group sync.WaitGroup
	for _, conn := range held { // one that was closed says so, the others wait
		group.Go(func() {
			_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
			if _, err := io.Copy(io.Discard, conn); err != nil && !ended(err) {
				kept.Add(1)
			}
		})
	}
	group.Wait()
	fmt.Println("kept", kept.Load())
	select {} // until it is killed
}

// blind sends whole requests and closes at once, without waiting for an answer.
func blind(address, number string) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	for i := range n {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		fmt.Fprintf(conn, "POST http://orders/ok/blind%d HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n", i)
		conn.Close()
	}
	return nil
}

// squat answers on a socket in a directory that another user will look into.
func squat(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"agent.sock", "admin.sock"} {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(dir, name), 0o666); err != nil {
			return err
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Println("somebody came to", name)
				conn.Close()
			}
		}()
	}
	fmt.Println("waiting")
	select {} // until it is killed
}

// T5: one user holds all the connections he gets; others are served.
func TestThreatT05AnotherUserTakesAllConnections(t *testing.T) {
	h := lab.NewHost(t)
	agent := h.Dev()
	flood := h.Start("setpriv", asUser(stranger, self(t, h, "hold", h.AgentSocket(), "3000")...)...)
	lab.Eventually(t, lab.Soon, "the flood stands", func() error {
		if !strings.Contains(flood.Output(), "kept") {
			return fmt.Errorf("output: %s", flood.Output())
		}
		return nil
	})
	var kept int
	if _, err := fmt.Sscanf(flood.Output(), "kept %d", &kept); err != nil || kept > 1024 {
		t.Errorf("one user keeps %d connections (%v), at most 1024 are his", kept, err)
	}
	begin := time.Now()
	h.Kith("get", "svid", "--as", "web", "--dir", filepath.Join(h.Dir, "out"))
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("another user waited %v", took)
	}
	agent.KeepRunning(t)
}

// T6: the directory of the sockets is another user's: who looks for an agent or
// a server there gets none. And nobody puts his own socket over the agent's.
func TestThreatT06SocketOfAnotherUser(t *testing.T) {
	h := lab.NewHost(t)
	shared := filepath.Join(h.Dir, "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(shared, "kith-"+victim)
	squatter := h.Start("setpriv", asUser(stranger, self(t, h, "squat", dir)...)...)
	lab.Eventually(t, lab.Soon, "the squatter waits", func() error {
		if !strings.Contains(squatter.Output(), "waiting") {
			return fmt.Errorf("output: %s", squatter.Output())
		}
		return nil
	})
	for _, verb := range [][]string{{"run", "--as", "web", "--", "true"}, {"get", "svid"}, {"nodes"}, {"services"}, {"status"}, {"agent"}, {"dev"}} {
		command := append([]string{"env", "KITH_RUN_DIR=" + dir, "HOME=" + h.Dir, program(t, h)}, verb...)
		if out := mustFail(t, h, verb[0]+" over another user's socket", "setpriv", asUser(victim, command...)...); verb[0] != "status" && !strings.Contains(out, "another user") && !strings.Contains(out, "belongs to") {
			t.Errorf("%s does not say what is wrong: %s", verb[0], out)
		}
	}
	if strings.Contains(squatter.Output(), "somebody came") {
		t.Errorf("the squatter was spoken to: %s", squatter.Output())
	}

	own := lab.NewHost(t)
	own.Dev()
	own.Kith("get", "svid", "--as", "web", "--dir", filepath.Join(own.Dir, "before"))
	for what, command := range map[string][]string{
		"remove":  {"rm", "-f", own.AgentSocket()},
		"replace": {"ln", "-sf", "/dev/null", own.AgentSocket()},
		"rename":  {"mv", own.AgentSocket(), own.AgentSocket() + "x"},
		"add":     {"touch", filepath.Join(filepath.Dir(own.AgentSocket()), "admin2.sock")},
	} {
		mustFail(t, own, what+" the agent's socket", "setpriv", asUser(stranger, command...)...)
	}
	own.Kith("get", "svid", "--as", "web", "--dir", filepath.Join(own.Dir, "out"))
}

// T16: another user on the host is no administrator, and has no identity.
func TestThreatT16AnotherUserIsNobody(t *testing.T) {
	h := lab.NewHost(t)
	h.Dev()
	kith := program(t, h)
	env := []string{"env", "KITH_RUN_DIR=" + filepath.Join(h.Dir, "run"), "HOME=" + h.Dir, "KITH_STATE_DIR=" + filepath.Join(h.Dir, "none")}
	for _, verb := range [][]string{
		{"nodes"},
		{"nodes", "add", "x", "--class", "dev"},
		{"nodes", "ban", "dev"},
		{"allow", "web", "GET /", "on", "orders"},
		{"services"},
		{"ids"},
		{"get", "svid", "--as", "web"},
		{"get", "svid"},
		{"run", "--as", "web", "--", "true"},
		{"why", "last"},
	} {
		command := append(append(append([]string(nil), env...), kith), verb...)
		out := mustFail(t, h, "kith "+strings.Join(verb, " ")+" by another user", "setpriv", asUser(stranger, command...)...)
		if strings.Contains(out, "PRIVATE KEY") || strings.Contains(out, "kith join") {
			t.Errorf("kith %s told another user: %s", strings.Join(verb, " "), out)
		}
	}
}

// T36: whoever is not the proxy's user, or root, does not act under its identity:
// neither with a connection that stays, nor with one that is closed before the
// proxy has looked whose it is.
func TestThreatT36LocalListenerOfAnotherUser(t *testing.T) {
	b := newGoBackend(t)
	s := newStage(t, b.port())
	s.h.Kith("allow", "batch", "GET,POST /ok/{**}", "on", "orders")
	proxy := s.h.Start("kith", "run", "--as", "batch", "--", "sh", "-c", "echo at $http_proxy; exec sleep infinity")
	var address string
	lab.Eventually(t, lab.Soon, "the outbound listener is there", func() error {
		_, after, ok := strings.Cut(proxy.Output(), "at http://")
		if !ok {
			return fmt.Errorf("output: %s", proxy.Output())
		}
		address = strings.TrimRight(strings.Fields(after)[0], "/")
		return nil
	})
	own := s.h.Try("curl", "-s", "-x", "http://"+address, "http://orders/ok/own")
	if own.Code != 0 || !strings.Contains(own.Stdout, "saw /ok/own") {
		t.Fatalf("the proxy's own user: %+v", own)
	}
	mustFail(t, s.h, "a call by another user", "setpriv", asUser(stranger, "curl", "-s", "-m", "10", "-x", "http://"+address, "http://orders/ok/other")...)
	mustFail(t, s.h, "a tunnel by another user", "setpriv", asUser(stranger, "curl", "-s", "-m", "10", "-p", "-x", "http://"+address, "http://orders/ok/tunnel")...)

	// The proxy sleeps while the stranger sends and leaves; then it looks.
	proxy.Signal(syscall.SIGSTOP)
	if r := s.h.Try("setpriv", asUser(stranger, self(t, s.h, "blind", address, "50")...)...); r.Code != 0 {
		t.Fatalf("blind: %+v", r)
	}
	lab.Eventually(t, lab.Soon, "the stranger's sockets are closed", func() error {
		port := address[strings.LastIndexByte(address, ':')+1:]
		if left := s.h.Do("ss", "-Htn", "state", "fin-wait-1", "dport", "=", ":"+port); strings.TrimSpace(left) != "" {
			return fmt.Errorf("still: %s", left)
		}
		return nil
	})
	proxy.Signal(syscall.SIGCONT)
	if own := s.h.Try("curl", "-s", "-x", "http://"+address, "http://orders/ok/after"); !strings.Contains(own.Stdout, "saw /ok/after") {
		t.Fatalf("the proxy's own user, afterwards: %+v", own)
	}
	for _, r := range b.seen() {
		if r.Target != "/ok/own" && r.Target != "/ok/after" {
			t.Errorf("the application saw %s %s from another user, as %s", r.Method, r.Target, r.XFCC)
		}
	}
}

// T38: another process of the same user reads neither memory nor environment of
// the programs that hold keys.
func TestThreatT38MemoryIsClosed(t *testing.T) {
	h := lab.NewHost(t)
	for _, dir := range []string{"run", "state"} {
		if err := os.Remove(filepath.Join(h.Dir, dir)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(h.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	p := h.Start("setpriv", asUser(victim, "env", "HOME="+h.Dir, program(t, h), "dev")...)
	lab.Eventually(t, lab.Soon, "kith dev is ready", func() error {
		if !strings.Contains(p.Output(), "is ready") {
			return fmt.Errorf("output: %s", p.Output())
		}
		return nil
	})
	for _, file := range []string{"mem", "environ", "maps", "fd/0", "root/etc/passwd"} {
		path := fmt.Sprintf("/proc/%d/%s", p.PID(), file)
		out := mustFail(t, h, "reading "+path+" as the same user", "setpriv", asUser(victim, "dd", "if="+path, "of=/dev/null", "bs=1", "count=1")...)
		if !strings.Contains(out, "ermission denied") {
			t.Errorf("%s: %s", path, out)
		}
	}
	mustFail(t, h, "attaching as the same user", "setpriv", asUser(victim, "strace", "-p", strconv.Itoa(p.PID()), "-o", "/dev/null")...)
	p.KeepRunning(t)
}
