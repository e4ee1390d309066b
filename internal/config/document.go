package config

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/kith-id/kith/spiffe"
)

const maxDocuments = 64

// documents checks where applications look for decisions, and how their inputs
// are read.
func (v *validation) documents(all []Document) {
	segments := regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$`)
	members := regexp.MustCompile(`^[^.\s]+(\.[^.\s]+)*$`)
	if len(all) > maxDocuments {
		v.addf("agent.documents", "%d of them, at most %d are served", len(all), maxDocuments)
	}
	for i, doc := range all {
		path := fmt.Sprintf("agent.documents[%d]", i)
		switch {
		case len(doc.Path) > 256 || !segments.MatchString(doc.Path):
			v.addf(path+".path", "%q is no path of a document, such as httpapi/authz", doc.Path)
		case doc.Path == "kith" || strings.HasPrefix(doc.Path, "kith/"):
			v.addf(path+".path", "%s is there already", doc.Path)
		}
		for _, other := range all[:i] {
			if overlap(doc.Path, other.Path) {
				v.addf(path+".path", "%s and %s overlap", doc.Path, other.Path)
			}
		}
		in := doc.Input
		if in == (DocumentInput{}) {
			continue
		}
		for _, member := range []struct {
			key, where string
			needed     bool
		}{
			{"from", in.From, true},
			{"method", in.Method, true},
			{"path", in.Path, true},
			{"host", in.Host, false},
			{"headers", in.Headers, false},
		} {
			switch {
			case member.where == "" && member.needed:
				v.addf(path+".input."+member.key, "empty")
			case member.where != "" && !members.MatchString(member.where):
				v.addf(path+".input."+member.key, "%q names no member of an input, such as request.method", member.where)
			}
		}
		v.optional(path+".input.prefix", in.Prefix, checkIDPrefix)
	}
}

func overlap(a, b string) bool {
	return strings.HasPrefix(a+"/", b+"/") || strings.HasPrefix(b+"/", a+"/")
}

// checkIDPrefix checks what is put before a bare name to make a SPIFFE ID.
func checkIDPrefix(prefix string) error {
	if _, err := spiffe.ParseID(prefix + "name"); err != nil || !strings.HasSuffix(prefix, "/") {
		return fmt.Errorf("%q is not the beginning of a SPIFFE ID up to a slash, such as spiffe://acme.example/vms/", prefix)
	}
	return nil
}
