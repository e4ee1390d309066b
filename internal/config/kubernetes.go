package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// kubernetes checks where the kubelet is and how it and the agent know each other.
func (v *validation) kubernetes(k Kubernetes) {
	const path = "agent.kubernetes."
	if k.Kubelet == "" {
		if k != (Kubernetes{}) {
			v.addf(path+"kubelet", "empty, although other keys of agent.kubernetes are set")
		}
		return
	}
	at, err := KubeletURL(k.Kubelet)
	if err != nil {
		v.check(path+"kubelet", err)
		return
	}
	switch plain := at.Scheme == "http"; {
	case plain && (k.Name != "" || k.CAFile != "" || k.CertFile != "" || k.KeyFile != ""):
		v.addf(path+"kubelet", "%s is plain http, which knows no certificates", k.Kubelet)
	case plain && k.TokenFile != "":
		v.addf(path+"token_file", "over plain http the token would be whoever's listens there")
	case !plain && k.CAFile == "":
		v.addf(path+"ca_file", "empty: the kubelet cannot be verified; it is the cluster's CA, or /var/lib/kubelet/pki/kubelet.crt where the kubelet signed its own certificate")
	case k.TokenFile != "" && k.CertFile != "":
		v.addf(path+"token_file", "set, and so is cert_file: one of them is wanted")
	case (k.CertFile == "") != (k.KeyFile == ""):
		v.addf(path+"key_file", "cert_file and key_file go together")
	}
	for key, file := range map[string]string{"ca_file": k.CAFile, "token_file": k.TokenFile, "cert_file": k.CertFile, "key_file": k.KeyFile} {
		if file != "" && !strings.HasPrefix(file, "/") {
			v.addf(path+key, "%q is no absolute path", file)
		}
	}
}

// KubeletURL accepts where a kubelet may be: https, or http on an address of loopback,
// as its read-only port is.
func KubeletURL(text string) (*url.URL, error) {
	wrong := fmt.Errorf("%q is no kubelet; want https://HOST:10250", text)
	at, err := url.Parse(text)
	if err != nil || at.Hostname() == "" || at.User != nil || at.RawQuery != "" || at.Fragment != "" || at.Path != "" && at.Path != "/" {
		return nil, wrong
	}
	switch at.Scheme {
	case "https":
		return at, nil
	case "http":
		if ip, err := netip.ParseAddr(at.Hostname()); err == nil && ip.IsLoopback() {
			return at, nil
		}
		return nil, fmt.Errorf("%q is plain http, which is for an address of loopback alone", text)
	}
	return nil, wrong
}
