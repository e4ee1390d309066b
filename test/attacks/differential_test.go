//go:build attacks

package attacks

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kith-id/kith/test/lab"
)

// router is a real server of another maker that says under which path it looked a
// request up: after all decoding and cleaning of its own.
type router struct {
	name string
	port int
	log  string // where each request it routed is a line
	read func(line string) (routed, bool)
}

// routed is one request as a router understood it.
type routed struct {
	number int
	path   string // as looked up
	target string // as sent
	place  string // the servlet it was mapped to; "-" where there are none
}

const routerConf = `
worker_processes 1;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.err;
events { worker_connections 512; }
http {
  log_format seen escape=json '{"n":"$http_x_number","path":"$uri","target":"$request_uri"}';
  access_log %[1]s/seen.log seen;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server { listen 127.0.0.1:%[2]d; location / { return 200 "seen\n"; } }
}
`

// routers are how each back end is started.
func routers() map[string]func(t *testing.T, h *lab.Host) router {
	program := func(name, command string) func(t *testing.T, h *lab.Host) router {
		return func(t *testing.T, h *lab.Host) router {
			t.Helper()
			data, err := filepath.Abs("testdata")
			if err != nil {
				t.Fatal(err)
			}
			r := router{name: name, port: lab.Port(t), log: filepath.Join(h.Dir, name+".seen"), read: readLine}
			h.Start("sh", "-c", strings.NewReplacer("DATA", data, "PORT", strconv.Itoa(r.port), "DIR", h.Dir).Replace("exec "+command)+" > "+r.log)
			h.WaitPort(r.port)
			return r
		}
	}
	return map[string]func(t *testing.T, h *lab.Host) router{
		"node":     program("node", "node DATA/backend.js PORT"),
		"python":   program("python", "/usr/bin/python3 -B DATA/backend.py PORT"),
		"gunicorn": program("gunicorn", "env PYTHONDONTWRITEBYTECODE=1 /usr/bin/gunicorn --chdir DATA --worker-tmp-dir DIR -b 127.0.0.1:PORT backend:application"),
		"tomcat":   program("tomcat", "java -Xmx128m -Djava.io.tmpdir=DIR -cp /usr/share/java/tomcat10-embed-core.jar DATA/Backend.java PORT"),
		"nginx": func(t *testing.T, h *lab.Host) router {
			t.Helper()
			port, dir := lab.Port(t), filepath.Join(h.Dir, "nginx")
			h.Start("nginx", "-c", h.WriteFile("nginx/nginx.conf", fmt.Sprintf(routerConf, dir, port)))
			h.WaitPort(port)
			return router{name: "nginx", port: port, log: filepath.Join(dir, "seen.log"), read: readJSON}
		},
	}
}

// readLine reads "seen NUMBER PLACE HEX(path) HEX(target)".
func readLine(line string) (routed, bool) {
	words := strings.Fields(line)
	if len(words) < 4 || words[0] != "seen" {
		return routed{}, false
	}
	words = append(words, "") // of an empty target
	number, err := strconv.Atoi(words[1])
	path, err2 := hex.DecodeString(words[3])
	target, err3 := hex.DecodeString(words[4])
	return routed{number, string(path), string(target), words[2]}, err == nil && err2 == nil && err3 == nil
}

func readJSON(line string) (routed, bool) {
	var seen struct{ N, Path, Target string }
	if json.Unmarshal([]byte(line), &seen) != nil {
		return routed{}, false
	}
	number, err := strconv.Atoi(seen.N)
	return routed{number, seen.Path, seen.Target, "-"}, err == nil
}

func (r router) seen(t *testing.T) []routed {
	t.Helper()
	text, err := os.ReadFile(r.log)
	if err != nil {
		t.Fatal(err)
	}
	var all []routed
	for line := range strings.Lines(string(text)) {
		if one, ok := r.read(strings.TrimSpace(line)); ok {
			all = append(all, one)
		}
	}
	return all
}

// ruled says whether a path that a back end looked up is one that the rules of
// these tests allow: below /open but not below /open/private, or one name below
// /docs. A path that is not resolved or that has a second reading is none.
func ruled(r routed) bool {
	if strings.ContainsAny(r.path, "\\\x00") || !strings.HasPrefix(r.path, "/") || r.place != "-" && r.place != "/open/*" && r.place != "/docs/*" {
		return false
	}
	segments := strings.Split(r.path[1:], "/")
	for _, s := range segments {
		if s == "." || s == ".." {
			return false
		}
	}
	switch segments[0] {
	case "open":
		return len(segments) == 1 || segments[1] != "private"
	case "docs":
		return len(segments) == 2 && segments[1] != ""
	}
	return false
}

// tricks are what stands between two segments, or beside one, in the hope that two
// programs read it differently (attacks 1 to 4, 8, 9, 12 and 13).
func tricks() []string {
	return []string{
		"/", "//", "///", "/./", "/../", "/../../", "/.../", "%2f", "%2F", "/%2f", "%2f/", "%5c", "\\", "/\\", "/%2e/", "/%2e%2e/", "/.%2e/", "/%2E./", "/..%2f", "%2f..%2f",
		"/%252e%252e/", "%252f", "%25252f", "%25%32%66", "%%32%66", "/%c0%ae%c0%ae/", "%c0%af", "%e0%80%af", "%ef%bc%8f", "%u002f", "\xff", "%ff", "\u2215", "\uff0f", "/\u2024\u2024/",
		"/..;/", "/.;/", ";/", "/;/", ";a=b/", "/;a=b/../", ";jsessionid=1/", "/..;a=b/", "%3b/", "/..%3b/", "%00", "%00/", "/%00/", "\x01", "%0a", "%0d%0a", "%09", "%20", "+", " ", "\t", "%7f",
		"?", "?/../", "#", "#/", "%23", "%3f", "&", "%26", "=", "*", "%2a", "~", "%7e", ":", "@", "%", "%2", "%zz", "..", ".", "%2e", "%2e%2e", "/.%00./", "/. ./", "/.%20/", "/..%20/", "/%2e%2e%00/", "./", "../",
	}
}

// targets are request targets: each trick at each place between known paths, and
// random mixtures of them from a fixed seed.
func targets() []string {
	var all []string
	for _, trick := range tricks() {
		for _, shape := range []string{"/open%sprivate/x", "/open%sadmin/x", "/open/a%s../admin/x", "/docs/a%sb", "/docs%sa", "%sadmin/x", "/admin%sopen/x", "/open/x%s", "/open/%s../private/y"} {
			all = append(all, fmt.Sprintf(shape, trick))
		}
	}
	draw := rand.New(rand.NewPCG(4, 70))
	pick := func(from []string) string { return from[draw.IntN(len(from))] }
	words := []string{"open", "open", "open", "private", "admin", "docs", "a", "", "..", ".", "Open", "ADMIN", "%6fpen", "%61dmin", "pri%76ate", "%70rivate"}
	for range 700 {
		target := "/" + pick(words)
		for range 1 + draw.IntN(4) {
			target += pick(tricks()[:1+draw.IntN(len(tricks()))]) + pick(words)
		}
		switch at := 1 + draw.IntN(len(target)-1); draw.IntN(6) {
		case 0:
			target = target[:at] + fmt.Sprintf("%%%02x", target[at]) + target[at+1:]
		case 1:
			target = target[:at] + fmt.Sprintf("%%25%02X", target[at]) + target[at+1:]
		case 2:
			target = target[:at] + pick(tricks()) + target[at:]
		}
		all = append(all, target)
	}
	for _, prefix := range []string{"http://orders", "HTTP://ORDERS:80", "https://orders", "//orders", "orders:80", "http://orders/open/../..", "http://a@orders", "*", "", "http://"} {
		for _, path := range []string{"/open/x", "/open/private/x", "/admin/x", "/open/../admin/x", "/open/%2e%2e/admin", "?/open/x", "#/open"} {
			all = append(all, prefix+path)
		}
	}
	return all
}

func raw(method, target string, number int) string {
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: orders\r\nX-Number: %d\r\nConnection: close\r\n\r\n", method, target, number)
}

// Attacks 1 to 4, 8, 9, 12 and 13: whatever passes the proxy, by HTTP/1 or by
// HTTP/2, the path that the program behind it routes by is one that the rules allow.
func TestAttack04BackEndsRouteWhatWasDecided(t *testing.T) {
	for name, start := range routers() {
		t.Run(name, func(t *testing.T) {
			r, all := start(t, lab.NewHost(t)), targets()
			s := newStage(t, r.port)
			s.allow("* /open/{**}", "* /docs/{name}")
			s.deny("* /open/private/{**}")
			var raws []string
			for i, target := range all {
				raws = append(raws, raw(method(i), target, i))
			}
			passed := map[string]int{}
			for i, got := range s.sayAll(raws) {
				if got.err != nil {
					t.Errorf("%q: %v", raws[i], got.err)
				}
				passed["HTTP/1"] += got.ok()
			}
			passed["HTTP/2"] = s.askAll(all)
			seen, bypasses := map[string]int{}, 0
			for _, one := range r.seen(t) {
				way := []string{"HTTP/1", "HTTP/2"}[one.number/len(all)]
				if seen[way]++; !ruled(one) {
					bypasses++
					t.Errorf("%s looked up %q (%s) for %q by %s, sent as %q", r.name, one.path, one.place, all[one.number%len(all)], way, one.target)
				}
			}
			for _, way := range []string{"HTTP/1", "HTTP/2"} {
				if seen[way] < len(all)/20 || passed[way] < seen[way]/2 {
					t.Errorf("of %d requests by %s %s saw %d and answered %d: nothing was tested", len(all), way, r.name, seen[way], passed[way])
				}
			}
			t.Logf("%s: %d requests each, passed %v, %d bypasses", r.name, len(all), seen, bypasses)
		})
	}
}

// method is that of the request of a number.
func method(i int) string { return []string{"GET", "GET", "POST", "OPTIONS"}[i%4] }

// The same requests get past a filter that compares the path as it was sent, so
// that the test above would notice.
func TestAttack04TheSameRequestsFoolANaiveFilter(t *testing.T) {
	for name, start := range routers() {
		t.Run(name, func(t *testing.T) {
			r := start(t, lab.NewHost(t))
			sent := 0
			for i, target := range targets() {
				if !strings.HasPrefix(target, "/open/") || strings.HasPrefix(target, "/open/private") || i%3 > 0 {
					continue
				}
				sent++
				conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(r.port))
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(patience())
				_, _ = io.WriteString(conn, raw("GET", target, i))
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
			}
			fooled := 0
			for _, one := range r.seen(t) {
				if !ruled(one) {
					fooled++
				}
			}
			if fooled == 0 {
				t.Errorf("none of %d requests led %s elsewhere: the list has no teeth", sent, r.name)
			}
			t.Logf("%s: %d of %d requests lead elsewhere", r.name, fooled, sent)
		})
	}
}
