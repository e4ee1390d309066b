package registry

import (
	"bytes"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kith-id/kith/internal/fault"
)

func TestAttributesRoundTripAsText(t *testing.T) {
	attrs := workload("workload.unix.user", "a=b c", "workload.systemd.slice", "")
	parsed, err := ParseAttributes(attrs.Text())
	if err != nil {
		t.Fatal(err)
	}
	delete(attrs, "workload.systemd.slice") // empty is absent
	if diff := cmp.Diff(attrs, parsed); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := ParseAttributes([]byte("# try it\n\nworkload.unix.uid=0\n")); err != nil {
		t.Errorf("comments and empty lines: %v", err)
	}
}

func TestBadAttributesAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no value":        "workload.unix.uid",
		"no scope":        "uid=1",
		"other scope":     "meta.team=a",
		"upper case":      "node.Name=a",
		"empty word":      "node..name=a",
		"digit first":     "node.1a=x",
		"not an integer":  "workload.unix.uid=root",
		"leading zero":    "workload.unix.uid=007",
		"plus":            "workload.unix.uid=+7",
		"huge":            "workload.unix.uid=99999999999999999999",
		"empty element":   "workload.unix.groups=a,,b",
		"map of a word":   "workload.k8s.labels=app",
		"map unsorted":    "workload.k8s.labels=b=1,a=2",
		"map key twice":   "workload.k8s.labels=a=1,a=2",
		"map no key":      "workload.k8s.labels==1",
		"map value odd":   "workload.k8s.labels=a=b=c",
		"map long":        "workload.k8s.labels=" + Map(many(maxListElements+1)),
		"control":         "workload.unix.user=a\x00b",
		"carriage return": "workload.unix.user=a\rb",
		"not UTF-8":       "workload.unix.user=\xff",
		"twice":           "node.name=a\nnode.name=a",
		"long value":      "workload.unix.user=" + strings.Repeat("a", maxAttributeValue+1),
		"long name":       "node." + strings.Repeat("a", maxAttributeName) + "=x",
		"big":             strings.Repeat("#", MaxAttributesBytes+1),
	} {
		if attrs, err := ParseAttributes([]byte(text)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, %v; want an invalid error", name, attrs, err)
		}
	}
	many := Attributes{}
	for i := range 1000 {
		many[fmt.Sprintf("workload.x%d.name", i)] = "value"
	}
	if err := many.Validate(); !fault.Is(err, fault.Invalid) {
		t.Errorf("a set of 23 KiB: got %v, want an invalid error", err)
	}
	if err := (Attributes{"workload.k9s.pod": "a", "workload.unix.uid": ""}).Validate(); err != nil {
		t.Errorf("a newer agent's attribute and an empty one: %v", err)
	}
}

// many is a map of so many entries.
func many(n int) map[string]string {
	out := make(map[string]string, n)
	for i := range n {
		out[strconv.Itoa(i)] = ""
	}
	return out
}

// What a map cannot hold leaves no map, rather than one without it.
func TestMapsAreWholeOrNone(t *testing.T) {
	if got := Map(map[string]string{"b": "2", "a": "", "x/y.z": "w"}); got != "a=,b=2,x/y.z=w" {
		t.Errorf("got %q", got)
	}
	for _, odd := range []map[string]string{{"a": "1", "b,c": "2"}, {"a": "1", "b=c": "2"}, {"a": "1", "b": "x,c=y"}, {"a": "b=c"}, {"": "1"}, {}} {
		if got := Map(odd); got != "" {
			t.Errorf("%v: got %q", odd, got)
		}
	}
}

func TestCanonicalTextOfValues(t *testing.T) {
	if got := List("b", "a", "", "b", "x,y"); got != "a,b" {
		t.Errorf("List: got %q, want a,b", got)
	}
	if got := Int(-7); got != "-7" {
		t.Errorf("Int: got %q", got)
	}
	for _, d := range Schema() {
		text := map[Type]string{TypeString: "a", TypeInt: "7", TypeBool: "true", TypeList: "a,b", TypeMap: "a=b"}[d.Type]
		if err := (Attributes{d.Name: text}).Validate(); err != nil {
			t.Errorf("%s=%s: %v", d.Name, text, err)
		}
	}
	if v, err := TypeBool.parse("true"); err != nil || v != true {
		t.Errorf("true as a bool is %v, %v", v, err)
	}
	if _, err := TypeBool.parse("1"); err == nil {
		t.Error("1 is accepted as a bool")
	}
}

func FuzzParseAttributes(f *testing.F) {
	f.Add(workload().Text())
	f.Add([]byte("workload.unix.groups=a,b\n#\n\nnode.name=x"))
	f.Add([]byte("=\n"))
	full := []byte{}
	for i := range 4 { // as long as may be, without the last line's end
		full = fmt.Appendf(full, "workload.x.a%d=%s\n", i, strings.Repeat("a", MaxAttributesBytes/4-15))
	}
	f.Add(full[:len(full)-1])
	f.Add(append(full[:len(full)-1:len(full)-1], 'a'))
	f.Fuzz(func(t *testing.T, text []byte) {
		attrs, err := ParseAttributes(text)
		if err != nil {
			return
		}
		if err := attrs.Validate(); err != nil {
			t.Fatalf("parsed, but not valid: %v", err)
		}
		again, err := ParseAttributes(attrs.Text())
		if err != nil || !maps.Equal(attrs, again) {
			t.Fatalf("text form does not round trip: %q: %v", attrs.Text(), err)
		}
		if !bytes.Equal(attrs.Text(), again.Text()) {
			t.Fatal("text form is not canonical")
		}
	})
}
