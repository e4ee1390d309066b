package policy

import (
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/fault"
)

func TestPathsHaveOneForm(t *testing.T) {
	both := PathOptions{KeepEncodedSlash: true, KeepDoubleSlash: true}
	for _, tc := range []struct {
		raw, want string
		opt       PathOptions
	}{
		{"/", "/", PathOptions{}},
		{"/v1/orders", "/v1/orders", PathOptions{}},
		{"/v1/orders/", "/v1/orders/", PathOptions{}},
		{"/%76%31/%6frders", "/v1/orders", PathOptions{}},
		{"/a%2Db%2eC%5F%7e", "/a-b.C_~", PathOptions{}},
		{"/a%20b%3a%40", "/a%20b%3A%40", PathOptions{}},
		{"/%c3%a9", "/%C3%A9", PathOptions{}},
		{"/é", "/%C3%A9", PathOptions{}},
		{"/{x}|\"<>^`[]", "/%7Bx%7D%7C%22%3C%3E%5E%60%5B%5D", PathOptions{}},
		{"/!$&'()*+,=:@", "/!$&'()*+,=:@", PathOptions{}},
		{"/c%23/what%3F/100%25", "/c%23/what%3F/100%25", PathOptions{}},
		{"/.well-known/x", "/.well-known/x", PathOptions{}},
		{"/a/.../b", "/a/.../b", PathOptions{}},
		{"/a/./b", "/a/b", PathOptions{}},
		{"/a/../b", "/b", PathOptions{}},
		{"/a/b/..", "/a/", PathOptions{}},
		{"/a/b/.", "/a/b/", PathOptions{}},
		{"/a/..", "/", PathOptions{}},
		{"/a/%2E%2e/b", "/b", PathOptions{}},
		{"/.", "/", PathOptions{}},
		{"/a%2fb", "/a%2Fb", both},
		{"/a%2F%2fb", "/a%2F%2Fb", both},
		{"//a//b//", "//a//b//", both},
		{"/a//../b", "/a/b", both},
		{"/a/.//b", "/a//b", both},
	} {
		got, err := NormalizePath(tc.raw, tc.opt)
		if err != nil || got != tc.want {
			t.Errorf("NormalizePath(%q) = %q, %v; want %q", tc.raw, got, err, tc.want)
		}
	}
}

func TestAmbiguousPathsAreRefused(t *testing.T) {
	both := PathOptions{KeepEncodedSlash: true, KeepDoubleSlash: true}
	for _, tc := range []struct {
		raw string
		opt PathOptions
	}{
		{"", both},
		{"*", both},
		{"a/b", both},
		{"http://orders/a", both},
		{"/a?b", both},
		{"/a b", both},
		{"/%", both},
		{"/%2", both},
		{"/%zz", both},
		{"/%u002e", both},
		{"/a//b", PathOptions{KeepEncodedSlash: true}},
		{"/a%2Fb", PathOptions{KeepDoubleSlash: true}},
		{"/..", both},
		{"/a/../..", both},
		{"/a/../../b", both},
		{"/..%2Fa", both},
		{"/a%2F..", both},
		{"/a%2F.%2Fb", both},
		{"/a%2F%2E%2E/b", both},
		{"/a/.%2Fb", both},
		{"/" + strings.Repeat("a", maxPath), both},
		{"/" + strings.Repeat("é", maxPath/4), both},
	} {
		got, err := NormalizePath(tc.raw, tc.opt)
		if err == nil || got != "" {
			t.Errorf("NormalizePath(%.40q) = %q, want an error", tc.raw, got)
		}
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("NormalizePath(%.40q): %v is not Invalid", tc.raw, err)
		}
	}
}

func TestNormalPathsAllocateNothing(t *testing.T) {
	for _, path := range []string{"/v1/orders/7", "/v1/a%20b/%C3%A9", "/.well-known/x"} {
		if n := testing.AllocsPerRun(100, func() { _, _ = NormalizePath(path, PathOptions{}) }); n != 0 {
			t.Errorf("NormalizePath(%q) allocates %v times", path, n)
		}
	}
}

func FuzzNormalizePath(f *testing.F) {
	for _, s := range []string{
		"/", "/a/./b/../c", "/%25%32%65", "/%252e", "/a%2fb", "//a", "/é", "/%c0%ae", "/a;b", "/..%2f", "/%2e%2e/", "/a\\b", "/%00", "/a%2F.%2e%2Fb", "/%25252f",
	} {
		f.Add(s, false, false)
		f.Add(s, true, true)
	}
	f.Fuzz(func(t *testing.T, raw string, slash, double bool) { checkNormal(t, raw, PathOptions{slash, double}) })
}

// Paths pieced together from what attacks are made of.
func TestNoBackEndSeesAnotherPath(t *testing.T) {
	pieces := []string{
		"/", "/", "/", "a", "b", ".", "..", "%2e", "%2E", "%252e", "%25", "2e", "2f", "%2f", "%2F", "%252F", "%5c", ";", "%3b", "%253B",
		"%41", "%c3", "%a9", "%c0%ae", "é", "%20", "%", "%2", "5", "25", "*", "!", "%21", "{", "%00", "#", "?", "~", "%7E",
	}
	random := rand.New(rand.NewPCG(1, 2))
	kept := 0
	for range 200_000 {
		var b strings.Builder
		b.WriteByte('/')
		for range 1 + random.IntN(7) {
			b.WriteString(pieces[random.IntN(len(pieces))])
		}
		if checkNormal(t, b.String(), PathOptions{random.IntN(2) == 0, random.IntN(2) == 0}) {
			kept++
		}
	}
	if kept < 10_000 {
		t.Errorf("only %d paths were accepted", kept)
	}
}

// checkNormal reports whether raw has a normal form, after checking it.
func checkNormal(t *testing.T, raw string, opt PathOptions) bool {
	t.Helper()
	normal, err := NormalizePath(raw, opt)
	if err != nil {
		return false
	}
	if again, err := NormalizePath(normal, opt); err != nil || again != normal {
		t.Fatalf("%q -> %q -> %q, %v", raw, normal, again, err)
	}
	if strings.ContainsAny(normal, "?# \"<>\\^`{|}") {
		t.Fatalf("%q -> %q", raw, normal)
	}
	// However often a back end decodes, it sees the segments the policy saw.
	segments := strings.Count(normal, "/")
	seen := normal
	for range 4 {
		decoded, err := url.PathUnescape(seen)
		if err != nil {
			break
		}
		seen = decoded
		if !opt.KeepEncodedSlash && strings.Count(seen, "/") != segments || strings.ContainsAny(seen, "\\;\x00\r\n") {
			t.Fatalf("%q -> %q is read as %q", raw, normal, seen)
		}
		for s := range strings.SplitSeq(seen, "/") {
			if s == "." || s == ".." {
				t.Fatalf("%q -> %q is read as %q", raw, normal, seen)
			}
		}
	}
	return true
}
