package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/keys"
)

func testKEK(t *testing.T) *keys.KEK {
	t.Helper()
	kek, err := keys.FileKEK(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	return kek
}

func TestFilesAreSealedUnderAKEK(t *testing.T) {
	t.Parallel()
	plain, kek := files{dir: t.TempDir()}, testKEK(t)
	sealed := files{dir: plain.dir, kek: kek}
	if err := plain.write(plain.key(), []byte("node key")); err != nil {
		t.Fatal(err)
	}

	// A file of the time before the KEK is read, and sealed by that.
	for range 2 {
		if got, err := sealed.read(sealed.key(), maxSmallFile); err != nil || string(got) != "node key" {
			t.Fatalf("read: got %q, %v, want the node key", got, err)
		}
		raw, err := os.ReadFile(sealed.key())
		if err != nil || bytes.Contains(raw, []byte("node key")) || !keys.Sealed(raw) {
			t.Fatalf("after reading with a KEK the file holds %q, %v; want it sealed", raw, err)
		}
	}

	// Without the KEK, with another one, or under another name it does not open.
	_, err := plain.read(plain.key(), maxSmallFile)
	if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.HintOf(err), "agent.kek_file") {
		t.Errorf("without the KEK: got %v, hint %q; want Invalid and agent.kek_file", err, fault.HintOf(err))
	}
	other := files{dir: plain.dir, kek: testKEK(t)}
	if got, err := other.read(other.key(), maxSmallFile); err == nil {
		t.Errorf("with another KEK: got %q, want an error", got)
	}
	if err := os.Rename(sealed.key(), sealed.svids()); err != nil {
		t.Fatal(err)
	}
	if got, err := sealed.read(sealed.svids(), maxSmallFile); err == nil {
		t.Errorf("under another name: got %q, want an error", got)
	}
}

// Attack: whoever can write the state directory and has not the KEK puts a policy of
// his own there, which needs no seal: only what is from before the KEK needs none.
func TestNothingPlainIsReadOnceAllIsSealed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	of := n.agent.files
	paths := []string{of.key(), of.node(), of.state()}
	plain := make(map[string][]byte)
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil || keys.Sealed(raw) {
			t.Fatalf("%s before there is a KEK: %v", path, err)
		}
		plain[path] = raw
	}
	s.down()
	n.cfg.Join, n.cfg.KEK = nil, testKEK(t)
	n.start() // from the cache, and seals it
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		sealed, err := os.ReadFile(path)
		if err != nil || !keys.Sealed(sealed) {
			t.Fatalf("%s is not sealed: %v", path, err)
		}
		if path == of.key() {
			continue // without it this is another node
		}
		if err := os.WriteFile(path, plain[path], 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := New(n.cfg)
		switch {
		case path == of.state() && (err != nil || a.world.Load() != nil):
			t.Errorf("%s that is plain: got %v, want a start without it", path, err)
		case path == of.node() && (!fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "not sealed")):
			t.Errorf("%s that is plain: got %v, want Invalid", path, err)
		}
		if a != nil {
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if raw, err := os.ReadFile(path); err != nil || !bytes.Equal(raw, plain[path]) {
			t.Errorf("%s was sealed for whoever put it there: %v", path, err)
		}
		if err := os.WriteFile(path, sealed, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSealedAgentServesFromCache(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.cfg.KEK = testKEK(t)
	n.start()
	n.people.be(200, 2000)
	_, first, err := n.svids()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the SVID is cached", func() bool {
		info, _ := os.Stat(n.agent.files.svids())
		return info != nil
	})
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{n.agent.files.key(), n.agent.files.node(), n.agent.files.state(), n.agent.files.svids()} {
		if raw, err := os.ReadFile(path); err != nil || !keys.Sealed(raw) {
			t.Errorf("%s is not sealed: %v", path, err)
		}
	}
	s.down()
	n.cfg.Join = nil
	n.start()
	_, again, err := n.svids()
	if err != nil || !bytes.Equal(again.GetSvids()[0].GetX509Svid(), first.GetSvids()[0].GetX509Svid()) {
		t.Fatalf("after the restart: %v, want the SVID of before", err)
	}
}
