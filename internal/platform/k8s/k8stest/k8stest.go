// Package k8stest is a kubelet for tests: HTTPS with a certificate of its own, a bearer
// token, and a PodList in the form that kubelets answer with. It runs no pods.
package k8stest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Node is the name of the kubelet's node.
const Node = "vm-7"

// Pod is what tests say of a pod; what is left out is what pods usually have.
type Pod struct {
	Namespace, Name string
	UID             string // empty: UID(Namespace, Name)
	Account         string
	Node            string // empty: Node
	Labels          map[string]string
	Containers      map[string]string // image by name
	Phase           string            // empty: Running
	Deleted         time.Time
}

// UID is one that nothing else has.
func UID(of ...string) string {
	h := hash(of...)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:32]
}

// hash is one that nothing else has.
func hash(of ...string) string {
	sum := sha256.Sum256([]byte(fmt.Sprint(of)))
	return hex.EncodeToString(sum[:])
}

// Kubelet is one that listens.
type Kubelet struct {
	URL       string
	CAFile    string
	TokenFile string // of the token that it wants to see

	mu     sync.Mutex
	pods   []Pod            // guarded by mu
	token  string           // guarded by mu
	answer http.HandlerFunc // in place of the pods; guarded by mu
	asked  int              // guarded by mu
	server *httptest.Server
}

// Start starts a kubelet until the test ends.
func Start(t testing.TB, pods ...Pod) *Kubelet {
	t.Helper()
	k := &Kubelet{pods: pods, CAFile: filepath.Join(t.TempDir(), "ca.crt"), TokenFile: filepath.Join(t.TempDir(), "token")}
	k.server = httptest.NewTLSServer(k)
	t.Cleanup(k.server.Close)
	k.URL = k.server.URL
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.server.Certificate().Raw})
	if err := os.WriteFile(k.CAFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	k.Rotate(t, "first")
	return k
}

// Rotate makes another token the only good one, in the file too.
func (k *Kubelet) Rotate(t testing.TB, token string) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := os.WriteFile(k.TokenFile, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.token = token
}

// Run replaces the pods.
func (k *Kubelet) Run(pods ...Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pods, k.answer = pods, nil
}

// Answer makes it answer something else.
func (k *Kubelet) Answer(with http.HandlerFunc) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.answer = with
}

// Asked is how often it was asked.
func (k *Kubelet) Asked() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asked
}

// ServeHTTP implements http.Handler.
func (k *Kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	pods, answer, token := k.pods, k.answer, k.token
	k.asked++
	k.mu.Unlock()
	switch {
	case answer != nil:
		answer(w, r)
	case r.Header.Get("Authorization") != "Bearer "+token:
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
	case r.URL.Path != "/pods" || r.Method != http.MethodGet:
		http.NotFound(w, r)
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(List(pods...))
	}
}

// List is a v1.PodList as kubelets write it.
func List(pods ...Pod) []byte {
	items := make([]any, 0, len(pods))
	for _, p := range pods {
		items = append(items, p.item())
	}
	text, err := json.Marshal(map[string]any{"kind": "PodList", "apiVersion": "v1", "metadata": map[string]any{}, "items": items})
	if err != nil {
		panic(err) // of strings and maps
	}
	return text
}

func (p Pod) item() any {
	if p.UID == "" {
		p.UID = UID(p.Namespace, p.Name)
	}
	if p.Node == "" {
		p.Node = Node
	}
	if p.Phase == "" {
		p.Phase = "Running"
	}
	metadata := map[string]any{
		"name": p.Name, "namespace": p.Namespace, "uid": p.UID, "creationTimestamp": "2026-01-02T03:04:05Z", "resourceVersion": "811",
		"annotations":   map[string]string{"kubernetes.io/config.seen": "2026-01-02T03:04:05.678Z", "kubernetes.io/config.source": "api"},
		"managedFields": []any{map[string]any{"manager": "kubectl", "operation": "Update", "fieldsV1": map[string]any{"f:spec": map[string]any{}}}},
	}
	if p.Labels != nil {
		metadata["labels"] = p.Labels
	}
	if !p.Deleted.IsZero() {
		metadata["deletionTimestamp"], metadata["deletionGracePeriodSeconds"] = p.Deleted.UTC().Format(time.RFC3339), 30
	}
	var containers, statuses []any
	for name, image := range p.Containers {
		containers = append(containers, map[string]any{"name": name, "image": image, "imagePullPolicy": "Never", "resources": map[string]any{}})
		statuses = append(statuses, map[string]any{
			"name": name, "image": image, "imageID": "sha256:" + hash(image), "containerID": "containerd://" + hash(p.UID, name), "ready": true, "restartCount": 0,
			"state": map[string]any{"running": map[string]any{"startedAt": "2026-01-02T03:04:06Z"}}, "lastState": map[string]any{},
		})
	}
	spec := map[string]any{"nodeName": p.Node, "containers": containers, "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30}
	if p.Account != "" {
		spec["serviceAccountName"], spec["serviceAccount"] = p.Account, p.Account
	}
	return map[string]any{
		"metadata": metadata, "spec": spec,
		"status": map[string]any{"phase": p.Phase, "podIP": "10.1.0.7", "qosClass": "BestEffort", "containerStatuses": statuses, "conditions": []any{map[string]any{"type": "Ready", "status": "True", "lastTransitionTime": nil}}},
	}
}
