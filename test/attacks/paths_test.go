//go:build attacks

package attacks

import (
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// spelling is one way to write a request target.
type spelling struct {
	attack int
	target string
}

// spellings of /admin and /user/profile, which a rule denies. %2E and the like
// are what a caller writes; N makes each tell-tale in the log of the back end.
func spellings() []spelling {
	var all []spelling
	for attack, targets := range map[int][]string{
		1: {
			"/admin", "/admin/", "//admin", "///admin", "/admin//", "/admin//x", "/%2fadmin", "/%2Fadmin", "/admin%2f", "/%5cadmin", "/%5Cadmin", "/\\admin",
			"/%61dmin", "/%61%64%6d%69%6e", "/a%64min/x", "/./admin", "/x/../admin", "/x/%2e%2e/admin", "/x/..%2fadmin", "/%2e/admin", "/x/.%2e/admin",
		},
		2: {"/user/profile", "/user/profile#x", "/user/profile%23x", "/user/profile%23", "/user/profile#", "/x#/../user/profile", "/user/x/../profile"},
		3: {"/user/profile?", "/user/profile?x", "/user/profile?#", "/user/profile%3fx", "/user/profile%3Fx=/admin", "/user/profile?/../../x"},
		4: {
			"/admin/.", "/admin/..", "/admin/../admin", "/admin/./x", "/..;/admin", "/x/..;/admin", "/.;/admin", "/admin;a=b", "/admin;jsessionid=1", "/;/admin", "/admin;/x",
			"/%252e%252e/admin", "/x/%252e%252e/admin", "/x/..%252fadmin", "/x/%c0%ae%c0%ae/admin", "/x/%c0%ae./admin", "/%c0%afadmin", "/%e0%80%afadmin", "/%ef%bc%8fadmin",
			"/.../admin", "/x/.../../admin", "/x/%2e%2e%2fadmin", "/x/..%5cadmin", "/x/..\\admin", "/../admin", "/%2e%2e/admin", "/x/../../admin", "/%3b/admin",
		},
		5: {"/Admin", "/ADMIN/x", "/User/Profile"},
		8: {
			"/admin%00", "/%00admin", "/admin\x01", "/admin%0a", "/admin%0d%0aX:y", "/adm\xffin", "/admin%ff", "/admin%7f", "/\x7fadmin", "/admin%", "/admin%2", "/admin%zz", "/%u0061dmin", "/admin%09", "/admin\t",
		},
		12: {"/x?a=/admin", "/x?/../admin", "/x+y", "/x?a=b;c=d"},
		13: {"/x y", "admin", "*", "http://orders/admin", "https://orders/admin", "HTTP://ORDERS/admin", "orders:80", "?x", "/x\u00e4", "//orders/admin", "/:80/admin"},
	} {
		for _, target := range targets {
			all = append(all, spelling{attack, target})
		}
	}
	return all
}

// forbidden says whether a back end that saw this path would look at what the
// rules deny: by the path it was sent, decoded and cleaned by any of the usual
// habits.
func forbidden(r request) bool {
	sent, _, _ := strings.Cut(r.Target, "?")
	for _, seen := range []string{sent, r.Path, strings.ReplaceAll(r.Path, "\\", "/"), strings.NewReplacer("%2f", "/", "%2F", "/").Replace(r.Path)} {
		seen, _, _ = strings.Cut(seen, ";")
		clean := path.Clean("/" + seen)
		if clean == "/admin" || strings.HasPrefix(clean, "/admin/") || clean == "/user/profile" {
			return true
		}
	}
	return false
}

// Attacks 1 to 5, 8, 12 and 13: everything but /admin and /user/profile is
// allowed, so that whatever is not refused reaches the back end.
func TestAttack01To13PathSpellings(t *testing.T) {
	eachBackend(t, func(t *testing.T, s *stage, b backend) {
		s.allow("* /{**}")
		s.deny("* /admin/{**}", "* /user/profile", "* /user/profile/{**}")
		var raws []string
		for _, sp := range spellings() {
			for _, method := range []string{"GET", "POST", "HEAD", "OPTIONS"} {
				raws = append(raws, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n", method, sp.target))
			}
		}
		for i, got := range s.sayAll(raws) {
			if got.err != nil {
				t.Errorf("%q: %v", raws[i], got.err)
			}
		}
		seen := b.seen()
		if len(seen) < 10 {
			t.Fatalf("only %d requests arrived: nothing was tested", len(seen))
		}
		for _, r := range seen {
			if forbidden(r) {
				t.Errorf("%s saw %s %q, as %q", b.name(), r.Method, r.Target, r.Path)
			}
			if !lookedAt(r) {
				t.Errorf("%s saw %q and takes it for %q: it is not in its one form", b.name(), r.Target, r.Path)
			}
		}
	})
}

// lookedAt says that a back end takes the target as it was sent: nothing in it
// is left to be decoded or cleaned into another path.
func lookedAt(r request) bool {
	target, _, _ := strings.Cut(r.Target, "?")
	clean := path.Clean(target)
	if strings.HasSuffix(target, "/") && clean != "/" {
		clean += "/"
	}
	return clean == target && !strings.ContainsAny(target, "\\;\x00#")
}

// Attack 5: a rule for GET is none for get, nor for any method that a server
// might take for it; the host's case and port do not matter to the decision.
func TestAttack05And06MethodsAndHosts(t *testing.T) {
	eachBackend(t, func(t *testing.T, s *stage, b backend) {
		s.allow("GET /ok/{**}")
		const rest = " HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n"
		var denied, passed []string
		for _, method := range []string{"get", "Get", "GETT", "GE", "POST", "HEAD", "OPTIONS", "TRACE", "DELETE", "PATCH", "PROPFIND", "X"} {
			denied = append(denied, method+" /ok/method"+rest+"\r\n")
		}
		for _, name := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X_HTTP_Method_Override"} {
			denied = append(denied, "DELETE /ok/override"+rest+name+": GET\r\n\r\n")
		}
		for i, host := range []string{
			"ORDERS", "orders.", "orders:80", "orders:8443", "admin", "localhost", "[::1]", "[::1]:80", "127.0.0.1", "a@orders", "orders@admin", "orders,admin", "orders;admin",
			"", "orders:", "orders:x", "-", "\xff", "orders%00", "orders\t",
		} {
			// Hosts are no part of a rule: whatever is passed on must be one host, as sent.
			passed = append(passed, fmt.Sprintf("GET /ok/host%d HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", i, host))
			denied = append(denied, fmt.Sprintf("GET /admin/host%d HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", i, host))
		}
		s.sayAll(passed)
		for i, got := range s.sayAll(denied) {
			if got.ok() > 0 || got.err != nil {
				t.Errorf("%q was answered %v, %v", denied[i], got.status, got.err)
			}
		}
		for _, r := range b.seen() {
			if r.Method != http.MethodGet || !strings.HasPrefix(r.Target, "/ok/host") {
				t.Errorf("%s saw %s %s for host %q", b.name(), r.Method, r.Target, r.Host)
			}
			if strings.ContainsAny(r.Host, " /\r\n\x00") {
				t.Errorf("%s saw the host %q", b.name(), r.Host)
			}
		}
	})
}

// Attack 7: one connection, other hosts: the decision is made for the identity
// and the path, and no name the caller says leads to another service.
func TestAttack07HostAndServerNameChooseNothing(t *testing.T) {
	orders, vault := newGoBackend(t), newGoBackend(t)
	s := newStage(t, orders.port())
	s.expose("vault", vault.port())
	s.allow("GET /ok/{**}")
	for i, host := range []string{"vault", "vault.dev.kith.local", "spiffe://dev.kith.local/dev/vault", "127.0.0.1:" + strconv.Itoa(vault.port())} {
		s.say(fmt.Sprintf("GET /ok/%d HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", i, host))
	}
	if seen := vault.seen(); len(seen) > 0 {
		t.Errorf("the other service saw %+v", seen)
	}
	if !slices.ContainsFunc(orders.seen(), func(r request) bool { return r.Target == "/ok/0" }) {
		t.Error("nothing arrived at all")
	}
}
