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

func TestSealedAgentServesFromCache(t *testing.T) {
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
