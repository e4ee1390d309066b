package k8s

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/platform/k8s/k8stest"
)

// Answers that no kubelet gives are refused as a whole, and do not take the agent's
// memory: the pods that were known go on being known for a second, and then are not.
func TestHostileAnswersAreRefused(t *testing.T) {
	one, two := web(), vault()
	twice := vault()
	twice.Name, twice.UID = "other", k8stest.UID("shop", "web-7c9f")
	elsewhere := vault()
	elsewhere.Node = "vm-8"
	bad := func(change func(*k8stest.Pod)) string {
		p := vault()
		change(&p)
		return string(k8stest.List(p))
	}
	for what, body := range map[string]string{
		"HTML": "<html>", "empty": "", "null": "null", "a list": "[]", "a pod": `{"kind":"Pod","apiVersion":"v1"}`, "v2": `{"kind":"PodList","apiVersion":"v2"}`,
		"no kind": `{"items":[]}`, "items is text": `{"kind":"PodList","apiVersion":"v1","items":"x"}`, "an item is null": `{"kind":"PodList","apiVersion":"v1","items":[null]}`,
		"cut short":           string(k8stest.List(one))[:200],
		"something behind":    string(k8stest.List(one)) + "{}",
		"one UID of two pods": string(k8stest.List(one, two, twice)),
		"pods of two nodes":   string(k8stest.List(one, elsewhere)),
		"many pods":           `{"kind":"PodList","apiVersion":"v1","items":[` + strings.Repeat("{},", maxPods+1) + `{}]}`,
		"name":                bad(func(p *k8stest.Pod) { p.Name = "../keys" }),
		"namespace":           bad(func(p *k8stest.Pod) { p.Namespace = "shop/web" }),
		"no namespace":        bad(func(p *k8stest.Pod) { p.Namespace = "" }),
		"UID":                 bad(func(p *k8stest.Pod) { p.UID = "1" }),
		"account":             bad(func(p *k8stest.Pod) { p.Account = "a b" }),
		"node":                bad(func(p *k8stest.Pod) { p.Node = "a/b" }),
		"label":               bad(func(p *k8stest.Pod) { p.Labels = map[string]string{"a": "b,c=d"} }),
		"label key":           bad(func(p *k8stest.Pod) { p.Labels = map[string]string{"a=b,c": "d"} }),
	} {
		if pods, err := parsePods([]byte(body)); err == nil {
			t.Errorf("%s: got %d pods", what, len(pods))
		}
	}
	server, c := k8stest.Start(t, one), &clock{time.Now()}
	k := knowing(t, server, c.Now)
	for what, answer := range map[string]http.HandlerFunc{
		"HTML": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write(k8stest.List(one))
		},
		"no type": func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			_, _ = w.Write(k8stest.List(one))
		},
		"headers": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
			_, _ = w.Write(k8stest.List(one))
		},
		"100 MB": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"kind":"PodList","apiVersion":"v1","items":[`)
			for range 100 {
				if _, err := io.WriteString(w, strings.Repeat(" ", 1<<20)); err != nil {
					return
				}
			}
			_, _ = io.WriteString(w, `]}`)
		},
	} {
		server.Run(one)
		c.now = c.now.Add(freshFor + 1)
		if _, err := k.Object(t.Context(), ref("shop/web-7c9f", "")); err != nil {
			t.Fatal(err)
		}
		server.Answer(answer)
		c.now = c.now.Add(freshFor + 1)
		if got, err := k.Object(t.Context(), ref("shop/web-7c9f", "")); !isAway(err) {
			t.Errorf("%s: got %v, %v", what, got, err)
		}
	}
}

// What a kubelet 1.37.2 answered, with containerd and two static pods; one has a UID in
// its file.
func TestPodsOfARealKubelet(t *testing.T) {
	pods, err := parsePods(realAnswer(t))
	if err != nil || len(pods) != 2 {
		t.Fatalf("got %d pods, %v", len(pods), err)
	}
	a := newAnswer(time.Now(), pods)
	p, err := a.find(ref("shop/web-7c9f-vm-7", "0f9ac31b-6f1f-4c8e-9a55-3f0c1b6b7d10"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		attrNamespace: "shop", attrPod: "web-7c9f-vm-7", attrNode: "vm-7", attrUID: "0f9ac31b-6f1f-4c8e-9a55-3f0c1b6b7d10", attrAccount: "",
		attrLabels: "app=web,app.kubernetes.io/part-of=shop,team=checkout", attrImages: "registry.example/proxy:2,registry.example/web:1",
	} {
		if p.attrs[name] != want {
			t.Errorf("%s: got %q, want %q", name, p.attrs[name], want)
		}
	}
	if p, err = a.find(ref("vault/keys-vm-7", ""), time.Now()); err != nil || p.uid != "f604371e9d13ae98d53084db51d7496f" {
		t.Errorf("a static pod: got %v, %v", p, err)
	}
	if _, err = a.find(ref("vault/keys-vm-7", "0f9ac31b-6f1f-4c8e-9a55-3f0c1b6b7d10"), time.Now()); err == nil {
		t.Error("a pod of another UID was found by its name")
	}
}

func realAnswer(t testing.TB) []byte {
	t.Helper()
	body, err := os.ReadFile("testdata/pods.json")
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// FuzzParsePods: whatever is read is well formed, each pod once, with attributes that
// rules can hold.
func FuzzParsePods(f *testing.F) {
	f.Add(k8stest.List())
	f.Add(k8stest.List(web(), vault()))
	f.Add(realAnswer(f))
	f.Add([]byte(`{"kind":"PodList","apiVersion":"v1","items":null}`))
	f.Add([]byte(`{"kind":"PodList","apiVersion":"v1","items":[{"metadata":{"labels":{"a":""}}}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		pods, err := parsePods(body)
		if err != nil {
			return
		}
		uids := make(map[string]bool)
		for _, p := range pods {
			if uids[p.uid] {
				t.Errorf("two pods %s", p.uid)
			}
			uids[p.uid] = true
			if err := p.attrs.Validate(); err != nil {
				t.Error(err)
			}
			if p.attrs[attrNamespace] != p.namespace || p.attrs[attrPod] != p.name || p.attrs[attrUID] != p.uid || p.uid == "" {
				t.Errorf("%v of %s/%s", p.attrs, p.namespace, p.name)
			}
		}
	})
}
