//go:build parties

package parties

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kith-id/kith/test/lab"
)

// postgresBin finds the newest installed server; it is not on PATH in Debian.
func postgresBin(t *testing.T) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(found) == 0 {
		t.Fatal("no PostgreSQL server below /usr/lib/postgresql; make test installs it")
	}
	return found[len(found)-1]
}

// unprivileged runs a command as nobody when the test is root, because
// PostgreSQL refuses to serve as root.
func unprivileged(command ...string) []string {
	if os.Getuid() != 0 {
		return command
	}
	return append([]string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, command...)
}

func TestPostgreSQLAsRawTCPThroughUpstream(t *testing.T) {
	h := dev(t)
	bin := postgresBin(t)
	port := lab.Port(t)
	data, sockets := filepath.Join(h.Dir, "pg"), filepath.Join(h.Dir, "pgs")
	for _, dir := range []string{data, sockets} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if os.Getuid() == 0 {
			if err := os.Chown(dir, 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}
	}
	initdb := unprivileged(filepath.Join(bin, "initdb"), "-D", data, "-U", "kith", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
	h.Do(initdb[0], initdb[1:]...)

	h.Kith("services", "add", "db", "--protocol", "tcp")
	serve(t, h, "db", port, unprivileged(filepath.Join(bin, "postgres"), "-D", data,
		"-c", "listen_addresses=127.0.0.1", "-c", fmt.Sprintf("port=%d", port), "-c", "unix_socket_directories="+sockets)...)

	psql := func(caller, sql string) []string {
		local := fmt.Sprint(lab.Port(t))
		return []string{
			"run", "--as", caller, "--upstream", "db=127.0.0.1:" + local, "--",
			"psql", "-h", "127.0.0.1", "-p", local, "-U", "kith", "-d", "postgres", "-Atc", sql,
		}
	}
	query := func(caller, sql string) lab.Result { return h.Try("kith", psql(caller, sql)...) }
	if r := query("web", "select 6*7"); r.Code == 0 {
		t.Fatalf("before any rule: got %q, want a refused connection", r.Stdout)
	}
	h.Kith("allow", "web", "tcp", "on", "db")
	want(t, "a query", query("web", "select 6*7"), 0, "42")
	want(t, "a large answer", query("web", "select length(string_agg(repeat('x', 1000), '')) from generate_series(1, 20000)"), 0, "20000000")
	if r := query("reporting", "select 1"); r.Code == 0 {
		t.Fatalf("another caller: got %q, want a refused connection", r.Stdout)
	}

	// A live connection is cut when its caller is denied.
	open := h.Start("kith", psql("web", "select pg_sleep(60)")...)
	lab.Eventually(t, lab.Soon, "the long query runs", func() error {
		r := query("web", "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'")
		if r.Stdout != "1\n" {
			return fmt.Errorf("active queries: %s %s", r.Stdout, r.Stderr)
		}
		return nil
	})
	h.Kith("deny", "web", "tcp", "on", "db")
	lab.Eventually(t, lab.Soon, "the open connection is cut", func() error {
		if !open.Exited() {
			return fmt.Errorf("psql still runs: %s", open.Output())
		}
		return nil
	})
}
