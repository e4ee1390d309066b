package k8s

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/platform/k8s/k8stest"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// web and vault are pods of these tests.
func web() k8stest.Pod {
	return k8stest.Pod{
		Namespace: "shop", Name: "web-7c9f", Account: "web", Labels: map[string]string{"app": "web", "app.kubernetes.io/part-of": "shop"},
		Containers: map[string]string{"web": "registry.example/web:1", "proxy": "registry.example/proxy:2"},
	}
}

func vault() k8stest.Pod {
	return k8stest.Pod{Namespace: "vault", Name: "keys", Account: "vault", Containers: map[string]string{"keys": "vault:1"}}
}

// clock is one that tests move.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

// knowing is a Kubelet that asks a kubelet.
func knowing(t *testing.T, at *k8stest.Kubelet, now func() time.Time) *Kubelet {
	t.Helper()
	k, err := New(Config{URL: at.URL, CAFile: at.CAFile, Token: at.TokenFile, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func ref(key, uid string) spiffe.KubernetesObject {
	namespace, name, _ := strings.Cut(key, "/")
	return spiffe.KubernetesObject{Plural: "pods", Group: "core", Namespace: namespace, Name: name, UID: uid}
}

func isAway(err error) bool {
	_, away := err.(attest.Away)
	return away
}

// Rule 108: a pod is found by its key, by its UID, or by its key and then of that UID;
// pods of other nodes, ended and deleted ones are not there; other objects are not
// served.
func TestRule108PodsAreFoundByKeyAndUID(t *testing.T) {
	at := time.Now()
	ended, failed, gone, leaving := vault(), vault(), vault(), vault()
	ended.Name, ended.Phase = "ended", "Succeeded"
	failed.Name, failed.Phase = "failed", "Failed"
	gone.Name, gone.Deleted = "gone", at.Add(-time.Second)
	leaving.Name, leaving.Deleted = "leaving", at.Add(time.Hour)
	before, next := vault(), vault() // one name, twice: the former one has yet to end
	before.Name, before.UID, before.Deleted = "next", k8stest.UID("before"), at.Add(time.Hour)
	next.Name = "next"
	k := knowing(t, k8stest.Start(t, web(), vault(), ended, failed, gone, leaving, before, next), time.Now)
	id := k8stest.UID
	for _, tc := range []struct{ key, uid, want string }{
		{"shop/web-7c9f", "", id("shop", "web-7c9f")},
		{"", id("shop", "web-7c9f"), id("shop", "web-7c9f")},
		{"shop/web-7c9f", id("shop", "web-7c9f"), id("shop", "web-7c9f")},
		{"vault/leaving", "", id("vault", "leaving")},
		{"vault/next", "", id("vault", "next")},
		{"", id("before"), id("before")},
		{"shop/web-7c9f", id("vault", "keys"), "another UID"},
		{"vault/next", id("before"), "another UID"},
		{"shop/web-7c9f", strings.ToUpper(id("shop", "web-7c9f")), "another UID"},
		{"vault/web-7c9f", "", "no pod"},
		{"vault/web-7c9f", id("shop", "web-7c9f"), "no pod"},
		{"shop/keys", "", "no pod"},
		{"", id("elsewhere"), "no pod"},
		{"vault/ended", "", "no pod"},
		{"", id("vault", "failed"), "no pod"},
		{"vault/gone", id("vault", "gone"), "no pod"},
	} {
		got, err := k.Object(t.Context(), ref(tc.key, tc.uid))
		if found := err == nil; found && got.UID != tc.want || !found && (!fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s %s: got %v, %v; want %s", tc.key, tc.uid, got.UID, err, tc.want)
		}
	}
	for _, other := range []spiffe.KubernetesObject{
		{Plural: "nodes", Group: "core", Name: k8stest.Node},
		{Plural: "pods", Group: "metrics.k8s.io", Namespace: "shop", Name: "web-7c9f"},
		{Plural: "serviceaccounts", Group: "core", Namespace: "shop", Name: "web"},
		{},
	} {
		if got, err := k.Object(t.Context(), other); !fault.Is(err, fault.Invalid) {
			t.Errorf("%v: got %v, %v", other, got, err)
		}
	}
}

// What is known of a pod is what the kubelet says, in the form that rules read.
func TestFactsOfAPod(t *testing.T) {
	long, comma, static := vault(), vault(), vault()
	long.Name, long.Labels = "long", map[string]string{}
	for i := range 100 {
		long.Labels[fmt.Sprintf("%s.example/key-%d", strings.Repeat("a", 60), i)] = "x"
	}
	comma.Name, comma.Containers = "comma", map[string]string{"a": "trusted/image,evil"}
	static.Name, static.UID, static.Account = "static", strings.Repeat("0a", 16), ""
	k := knowing(t, k8stest.Start(t, web(), long, comma, static), time.Now)
	found, err := k.Object(t.Context(), ref("shop/web-7c9f", ""))
	if err != nil {
		t.Fatal(err)
	}
	want := registry.Attributes{
		attrNamespace: "shop", attrPod: "web-7c9f", attrAccount: "web", attrNode: k8stest.Node, attrUID: k8stest.UID("shop", "web-7c9f"),
		attrLabels: "app=web,app.kubernetes.io/part-of=shop", attrImages: "registry.example/proxy:2,registry.example/web:1",
	}
	if diff := cmp.Diff(want, found.Attributes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := found.Attributes.Validate(); err != nil {
		t.Error(err)
	}
	for name, absent := range map[string]string{"long": attrLabels, "comma": attrImages, "static": attrAccount} {
		found, err := k.Object(t.Context(), ref("vault/"+name, ""))
		if err != nil || found.Attributes[absent] != "" || found.Attributes[attrPod] != name {
			t.Errorf("%s: got %v, %v; want no %s", name, found.Attributes, err, absent)
		}
	}
}

// The kubelet is asked at most once a second for what is there, again soon for what is
// not, and an old answer is never used in place of one that does not come.
func TestAnswersAreFresh(t *testing.T) {
	server, c := k8stest.Start(t, web()), &clock{time.Now()}
	k := knowing(t, server, c.Now)
	find := func(key string) error {
		_, err := k.Object(t.Context(), ref(key, ""))
		return err
	}
	for range 3 {
		if err := find("shop/web-7c9f"); err != nil {
			t.Fatal(err)
		}
	}
	if got := server.Asked(); got != 1 {
		t.Errorf("asked %d times, want once", got)
	}
	server.Run(web(), vault())
	c.now = c.now.Add(missFor + 1)
	if err := find("vault/keys"); err != nil || server.Asked() != 2 {
		t.Errorf("a new pod: got %v, asked %d times", err, server.Asked())
	}
	for range 10 { // nobody has the kubelet asked at will
		if err := find("vault/none"); !fault.Is(err, fault.NotFound) || server.Asked() != 2 {
			t.Fatalf("no pod: got %v, asked %d times", err, server.Asked())
		}
	}
	server.Run(vault())
	c.now = c.now.Add(freshFor + 1)
	if err := find("shop/web-7c9f"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a pod that is gone: got %v", err)
	}
	server.Answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	c.now = c.now.Add(freshFor + 1)
	for range 10 {
		if err := find("vault/keys"); !isAway(err) {
			t.Fatalf("away: got %v", err)
		}
	}
	if got := server.Asked(); got != 4 {
		t.Errorf("asked %d times, want 4: one that is away is not asked by everybody", got)
	}
	server.Run(vault())
	c.now = c.now.Add(missFor + 1)
	if err := find("vault/keys"); err != nil {
		t.Errorf("back again: got %v", err)
	}
}

// A token is read again for each question, as Kubernetes rotates those it projects.
func TestTokensRotate(t *testing.T) {
	server, c := k8stest.Start(t, web()), &clock{time.Now()}
	k := knowing(t, server, c.Now)
	for _, token := range []string{"second", "third"} {
		if _, err := k.Object(t.Context(), ref("shop/web-7c9f", "")); err != nil {
			t.Fatal(err)
		}
		server.Rotate(t, token)
		c.now = c.now.Add(freshFor + 1)
	}
	for what, text := range map[string]string{"wrong": "no", "empty": "\n", "a line more": "third\nX-Evil: 1"} {
		c.now = c.now.Add(freshFor + 1)
		if err := os.WriteFile(server.TokenFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Object(t.Context(), ref("shop/web-7c9f", "")); !isAway(err) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// Whoever is not the kubelet that is configured says nothing: another certificate,
// another name, plain http to another host, a redirect, however good the pods look.
func TestStrangersAreNoKubelet(t *testing.T) {
	server, other := k8stest.Start(t, web()), k8stest.Start(t, web())
	for what, cfg := range map[string]Config{
		"another CA":   {URL: server.URL, CAFile: garbage(t, "no certificate")},
		"no CA":        {URL: server.URL, CAFile: filepath.Join(t.TempDir(), "none")},
		"another name": {URL: server.URL, CAFile: server.CAFile, Name: "vm-8"},
		"no token":     {URL: server.URL, CAFile: server.CAFile},
		"nobody there": {URL: "https://127.0.0.1:1", CAFile: server.CAFile},
	} {
		cfg.Now = time.Now
		k, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		if got, err := k.Object(t.Context(), ref("shop/web-7c9f", "")); !isAway(err) {
			t.Errorf("%s: got %v, %v", what, got, err)
		}
	}
	server.Answer(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL+"/pods", http.StatusFound) })
	k := knowing(t, server, time.Now)
	if got, err := k.Object(t.Context(), ref("shop/web-7c9f", "")); !isAway(err) || !strings.Contains(err.Error(), "302") || other.Asked() > 0 {
		t.Errorf("redirect: got %v, %v", got, err)
	}
	for _, url := range []string{"http://10.0.0.1:10255", "http://localhost:10255", "ftp://127.0.0.1", "https://", "https://u:p@127.0.0.1:1", "https://127.0.0.1:1/pods", "https://127.0.0.1:1?x", "127.0.0.1:10250", ""} {
		if _, err := New(Config{URL: url, CAFile: server.CAFile, Now: time.Now}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %v", url, err)
		}
	}
	if _, err := New(Config{URL: server.URL, Now: time.Now}); !fault.Is(err, fault.Invalid) {
		t.Errorf("https without a CA: got %v", err)
	}
	if _, err := New(Config{URL: "http://127.0.0.1:10255", Token: "/t", Now: time.Now}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a token over http: got %v", err)
	}
}

// A certificate of another CA is refused even where it is for the right address.
func TestAnotherCAsCertificateIsRefused(t *testing.T) {
	server := k8stest.Start(t, web())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, of, of, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	impostor := httptest.NewUnstartedServer(server)
	impostor.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	impostor.StartTLS()
	defer impostor.Close()
	for ca, want := range map[string]bool{server.CAFile: false, garbage(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))): true} {
		k, err := New(Config{URL: impostor.URL, CAFile: ca, Token: server.TokenFile, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		before := server.Asked()
		if got, err := k.Object(t.Context(), ref("shop/web-7c9f", "")); (err == nil) != want || !want && (!isAway(err) || server.Asked() > before) {
			t.Errorf("by %s: got %v, %v; want %v", ca, got, err, want)
		}
	}
}

func garbage(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
