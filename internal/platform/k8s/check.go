package k8s

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net/http"
	"net/url"

	"github.com/kith-id/kith/internal/fault"
)

// Check asks the kubelet now, and says how many pods it told of. Its errors have a
// hint at what to mend.
func (k *Kubelet) Check(ctx context.Context) (pods int, err error) {
	told, err := k.since(ctx, k.cfg.Now())
	if err != nil {
		return 0, err
	}
	return len(told.byUID), nil
}

// unanswered says what to do where nothing came of asking.
func unanswered(err error) error {
	var about *url.Error
	if errors.As(err, &about) { // which repeats the URL
		err = about.Err
	}
	var certificate *tls.CertificateVerificationError
	switch {
	case fault.HintOf(err) != "":
		return err
	case errors.Is(err, fs.ErrPermission):
		return fault.Hint(err, "as the agent's user: sudo kith doctor")
	case errors.Is(err, fs.ErrNotExist):
		return fault.Hint(err, "the files of agent.kubernetes in kith.yaml: ca_file, token_file, cert_file, key_file")
	case errors.As(err, &certificate):
		return fault.Hint(err, "agent.kubernetes.ca_file in kith.yaml: the CA of the kubelet's certificate; name: the name in it, which is often the node's")
	default:
		return fault.Hint(err, "systemctl status kubelet; agent.kubernetes.kubelet in kith.yaml: its address and port")
	}
}

// refused says what to do where the kubelet answered, but no pods.
func refused(status int, err error) error {
	switch status {
	case http.StatusUnauthorized:
		return fault.Hint(err, "agent.kubernetes.token_file in kith.yaml: a token of a service account; or cert_file and key_file: a certificate of a CA that the kubelet knows")
	case http.StatusForbidden:
		return fault.Hint(err, "kubectl create clusterrole kith-pods --verb=get --resource=nodes/pods (before Kubernetes 1.33: nodes/proxy), and kubectl create clusterrolebinding for whom the agent asks as; the kubelet remembers its no for a while")
	default:
		return fault.Hint(err, "journalctl -u kubelet; agent.kubernetes.kubelet in kith.yaml: its address and port")
	}
}
