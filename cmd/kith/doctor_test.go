package main

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/obs"
	"github.com/kith-id/kith/internal/platform/k8s/k8stest"
)

// Doctor asks the kubelet that the agent would ask, and says what to mend.
func TestDoctorAsksTheKubelet(t *testing.T) {
	kubelet := k8stest.Start(t, k8stest.Pod{Namespace: "shop", Name: "web-7c9f"})
	good := config.Kubernetes{Kubelet: kubelet.URL, CAFile: kubelet.CAFile, TokenFile: kubelet.TokenFile}
	noToken, noCA, misnamed, away := good, good, good, good
	noToken.TokenFile = filepath.Join(t.TempDir(), "none")
	noCA.CAFile = ""
	misnamed.Name = "vm-9"
	away.Kubelet = "https://127.0.0.1:1"
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for _, tc := range []struct {
		what            string
		from            config.Kubernetes
		answer          http.HandlerFunc
		outcome, detail string
		do              string
	}{
		{"all is well", good, nil, "ok", "answers, pods: 1", ""},
		{"unknown client", good, status(http.StatusUnauthorized), "fail", "401", "token_file"},
		{"may not", good, status(http.StatusForbidden), "fail", "403", "nodes/pods"},
		{"broken", good, status(http.StatusInternalServerError), "fail", "500", "journalctl -u kubelet"},
		{"no pods", good, status(http.StatusOK), "fail", "no JSON", "agent.kubernetes"},
		{"another name", misnamed, nil, "fail", "certificate", "name"},
		{"no token there", noToken, nil, "fail", "no such file", "token_file"},
		{"no CA given", noCA, nil, "fail", "no CA", "agent.kubernetes"},
		{"nobody there", away, nil, "fail", "refused", "systemctl status kubelet"},
	} {
		kubelet.Answer(tc.answer)
		d := &diagnosis{app: &app{now: obs.Now}}
		d.kubelet(t.Context(), tc.from)
		if len(d.Findings) != 1 {
			t.Fatalf("%s: got %+v", tc.what, d.Findings)
		}
		got := d.Findings[0]
		if got.Outcome != tc.outcome || !strings.Contains(got.Detail, tc.detail) || !strings.Contains(got.Do, tc.do) || (got.Do == "") != (tc.do == "") {
			t.Errorf("%s: got %+v", tc.what, got)
		}
	}
	d := &diagnosis{app: &app{now: obs.Now}}
	if d.kubelet(t.Context(), config.Kubernetes{}); len(d.Findings) > 0 {
		t.Errorf("none is named: got %+v", d.Findings)
	}
}
