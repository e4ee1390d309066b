package k8s

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/registry"
)

// maxPods is far more than a kubelet runs.
const maxPods = 4096

// podList is what is read of a v1.PodList; it has many other fields.
type podList struct {
	Kind       string          `json:"kind"`
	APIVersion string          `json:"apiVersion"`
	Items      json.RawMessage `json:"items"`
}

// podItem is what is read of a v1.Pod.
type podItem struct {
	Metadata struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace"`
		UID               string            `json:"uid"`
		DeletionTimestamp *time.Time        `json:"deletionTimestamp"`
		Labels            map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		NodeName           string          `json:"nodeName"`
		ServiceAccountName string          `json:"serviceAccountName"`
		InitContainers     []containerItem `json:"initContainers"`
		Containers         []containerItem `json:"containers"`
	} `json:"spec"`
	Status struct {
		Phase string `json:"phase"`
	} `json:"status"`
}

type containerItem struct {
	Image string `json:"image"`
}

// pod is a pod of this node as it was when the kubelet answered; immutable.
type pod struct {
	uid, namespace, name, node string
	deleted                    time.Time // from when it is none any more; zero: it is not deleted
	ended                      bool
	attrs                      registry.Attributes // of the pod as a whole
}

// The names of Kubernetes. Its API server has checked them, and so has the kubelet
// those of static pods, whose UID is a hash of their file: whoever answers with others
// is no kubelet.
var (
	namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	podName       = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	podUID        = regexp.MustCompile(`^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})$`)
	labelValue    = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$`)
	labelName     = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
)

const maxName = 253

// parsePods reads a v1.PodList. One pod that could not be of Kubernetes, one that
// stands twice or pods of two nodes spoil all of it.
func parsePods(body []byte) ([]*pod, error) {
	var list podList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("pods: %w", err)
	}
	if list.Kind != "PodList" || list.APIVersion != "v1" {
		return nil, fmt.Errorf("the answer is no v1 PodList but %.40q of %.40q", list.Kind, list.APIVersion)
	}
	items, err := itemsOf(list.Items)
	if err != nil {
		return nil, err
	}
	pods, node := make([]*pod, 0, len(items)), ""
	uids := make(map[string]bool)
	for _, item := range items {
		p, err := item.pod()
		if err != nil {
			return nil, err
		}
		if node == "" {
			node = p.node
		}
		switch {
		case uids[p.uid]:
			return nil, fmt.Errorf("two pods have the UID %s", p.uid)
		case p.node != "" && p.node != node:
			return nil, fmt.Errorf("pods of two nodes, %s and %s", node, p.node)
		}
		uids[p.uid] = true
		pods = append(pods, p)
	}
	return pods, nil
}

// itemsOf reads the items one by one, so that a list of a million is not built.
func itemsOf(text json.RawMessage) ([]podItem, error) {
	if len(text) == 0 || string(text) == "null" { // a node without pods
		return nil, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	if open, err := decoder.Token(); err != nil || open != json.Delim('[') {
		return nil, errors.New("items is no list")
	}
	var items []podItem
	for decoder.More() {
		if len(items) == maxPods {
			return nil, fmt.Errorf("more than %d pods", maxPods)
		}
		var item podItem
		if err := decoder.Decode(&item); err != nil {
			return nil, fmt.Errorf("pod %d: %w", len(items), err)
		}
		items = append(items, item)
	}
	return items, nil
}

// pod checks an item.
func (i podItem) pod() (*pod, error) {
	m := i.Metadata
	switch {
	case !namespaceName.MatchString(m.Namespace):
		return nil, fmt.Errorf("a pod in namespace %.80q", m.Namespace)
	case len(m.Name) > maxName || !podName.MatchString(m.Name):
		return nil, fmt.Errorf("a pod of name %.80q", m.Name)
	case !podUID.MatchString(m.UID):
		return nil, fmt.Errorf("pod %s/%s has the UID %.80q", m.Namespace, m.Name, m.UID)
	case !nameOrNone(i.Spec.NodeName) || !nameOrNone(i.Spec.ServiceAccountName):
		return nil, fmt.Errorf("pod %s/%s is of node %.80q and account %.80q", m.Namespace, m.Name, i.Spec.NodeName, i.Spec.ServiceAccountName)
	}
	for key, value := range m.Labels {
		if !labelKey(key) || !labelValue.MatchString(value) {
			return nil, fmt.Errorf("pod %s/%s has the label %.80q=%.80q", m.Namespace, m.Name, key, value)
		}
	}
	p := &pod{
		uid: m.UID, namespace: m.Namespace, name: m.Name, node: i.Spec.NodeName,
		ended: i.Status.Phase == "Succeeded" || i.Status.Phase == "Failed",
	}
	if m.DeletionTimestamp != nil { // when the time that it has to end is over
		p.deleted = *m.DeletionTimestamp
	}
	p.attrs = i.attrs()
	return p, nil
}

func nameOrNone(name string) bool {
	return name == "" || len(name) <= maxName && podName.MatchString(name)
}

func labelKey(key string) bool {
	prefix, name, prefixed := strings.Cut(key, "/")
	if !prefixed {
		return labelName.MatchString(key)
	}
	return prefix != "" && nameOrNone(prefix) && labelName.MatchString(name)
}

// attrs are the attributes of a pod as a whole. What one of them cannot hold, as an image
// with a comma, is left out and not cut: rules that name it do not match.
func (i podItem) attrs() registry.Attributes {
	var images []string
	for _, c := range slices.Concat(i.Spec.InitContainers, i.Spec.Containers) {
		images = append(images, c.Image)
	}
	list := registry.List(images...)
	if slices.ContainsFunc(images, func(image string) bool { return image == "" || strings.Contains(image, ",") }) {
		list = ""
	}
	attrs := registry.Attributes{}
	for name, value := range map[string]string{
		attrNamespace: i.Metadata.Namespace, attrPod: i.Metadata.Name, attrUID: i.Metadata.UID, attrNode: i.Spec.NodeName,
		attrAccount: i.Spec.ServiceAccountName, attrLabels: registry.Map(i.Metadata.Labels), attrImages: list,
	} {
		put(attrs, name, value)
	}
	return attrs
}

// put adds a fact that rules can hold.
func put(attrs registry.Attributes, name, value string) {
	if value != "" && (registry.Attributes{name: value}).Validate() == nil {
		attrs[name] = value
	}
}
