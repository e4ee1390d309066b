package store

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/registry/registrytest"
)

func TestMemoryConforms(t *testing.T) {
	t.Parallel()
	registrytest.Store(t, func(*testing.T) registry.Store { return NewMemory() })
}

func TestEtcdConforms(t *testing.T) {
	t.Parallel()
	registrytest.Store(t, func(t *testing.T) registry.Store { return openEtcd(t, testConfig(t)) })
}

// testConfig is a store in a new directory with a short path, which t.TempDir
// is not.
func testConfig(t *testing.T) Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "kith")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return Config{Dir: filepath.Join(dir, "store"), Binary: os.Getenv(memberVar), MinFree: 1, Log: testLog(t)}
}

// testLog shows the store's log when a test fails.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func openEtcd(t *testing.T, cfg Config) *Etcd {
	t.Helper()
	start := time.Now()
	e, err := OpenEtcd(t.Context(), cfg)
	if err != nil {
		t.Fatalf("OpenEtcd: %v", err)
	}
	t.Logf("opened in %s", time.Since(start))
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return e
}
