package main

import (
	"os/user"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/platform/k8s/k8stest"
)

// docs/kubernetes.md: its kith.yaml is one, under which its commands work with a
// kubelet, and its state applies. Rule 108: kith get names a pod by key and UID.
func TestKubernetesPageRuns(t *testing.T) {
	t.Parallel()
	pod := k8stest.Pod{
		Namespace: "shop", Name: "web-7c9f", Account: "web", Labels: map[string]string{"team": "checkout"}, Containers: map[string]string{"web": "web:1"},
	}
	other := k8stest.Pod{Namespace: "vault", Name: "keys", Account: "keys", Labels: pod.Labels, Containers: map[string]string{"keys": "vault:1"}}
	kubelet := k8stest.Start(t, pod, other)
	script, env := page(t, "kubernetes.md")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	env["BROKER_USER"], env["UID"], env["OTHER"] = me.Username, k8stest.UID("shop", "web-7c9f"), k8stest.UID("vault", "keys")
	commands, files, _ := strings.Cut(script, "-- ")
	files = strings.ReplaceAll(files, "  - {name: mesh,", "  - {name: web, nodes: [vms], id: /vms/web, require: 'workload.kith.as == \"web\"'}\n  - {name: mesh,")
	runPage(t, brokerHost, commands+kubernetesEnd+"-- "+files+brokerFiles+kubernetesConfig(t, kubelet), env)
}

// kubernetesConfig is the kith.yaml of the page, with the kubelet of the test.
func kubernetesConfig(t *testing.T, kubelet *k8stest.Kubelet) string {
	t.Helper()
	const begin = "\n```\nfeatures: {broker: true}\n"
	_, after, found := strings.Cut(pageText(t, "kubernetes.md"), begin)
	block, _, closed := strings.Cut(after, "\n```\n")
	if !found || !closed {
		t.Fatal("the page has no kith.yaml")
	}
	for old, now := range map[string]string{
		"https://127.0.0.1:10250": kubelet.URL, "name: vm-7": "name: example.com",
		"/var/lib/kubelet/pki/kubelet.crt": kubelet.CAFile, "/var/run/secrets/kubernetes.io/serviceaccount/token": kubelet.TokenFile,
	} {
		if !strings.Contains(block, old) {
			t.Fatalf("the page's kith.yaml has no %s", old)
		}
		block = strings.Replace(block, old, now, 1)
	}
	return "features: {broker: true}\n" + block + "\n"
}

// kubernetesEnd is what the page says besides.
const kubernetesEnd = `
exec kith ids explain --object pods.core/shop/web-7c9f
stdout '^pods.core/shop/web-7c9f$'
stdout '^workload.k8s.labels +team=checkout +attested$'
stdout '^pods +match +spiffe://.*/vms/shop/web'
stdout '^mesh +missing .*workload.kith.as'
exec kith ids explain --object pods.core --uid $OTHER -o json
stdout '"value": "vault"'
! exec kith ids explain --object pods.core/shop/web-7c9f --uid $OTHER
stderr 'has another UID'
! exec kith ids explain --object pods.core/shop/none
stderr 'no pod'
! exec kith ids explain --object pods.core/shop/web-7c9f --as web
stderr 'it goes without --pid and --as'
! exec kith ids explain --object pods.core/shop/
stderr 'the name is empty'
exec kith get svid --as mesh --object pods.core/shop/web-7c9f --uid $UID
! exec kith get svid --as mesh --object pods.core/shop/web-7c9f --uid $OTHER
stderr '^error: fetch X509-SVIDs of pods.core shop/web-7c9f [-0-9a-f]+: pod shop/web-7c9f has another UID than'
stderr '^hint: the object must be there now, and its uid be the one that is named$'
! exec kith get svid --as mesh --object pods.core/vault/keys
stderr '^hint: agent.broker.allow says for whom one may ask$'
! exec kith get svid --as mesh --object serviceaccounts.core/shop/web
stderr 'this agent knows pods.core alone, and no serviceaccounts.core'
exec kith config check
`
