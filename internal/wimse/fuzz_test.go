package wimse

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
)

// FuzzParseInputs holds that what is read is what was written: the signature is
// over the text, and the parts must be those of the text.
func FuzzParseInputs(f *testing.F) {
	for _, text := range []string{
		newScene(f, Signature).prove().header.Get(InputField), `a=("@method";req "x");created=1;tag="x", b=()`, `a=()`, `a=("\"\\");x=?0`, `a=( )`, ``,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		inputs, err := parseInputs(text)
		if err != nil {
			return
		}
		labels := make(map[string]bool)
		for _, in := range inputs {
			if labels[in.label] || !strings.Contains(text, in.label+"="+in.raw) {
				t.Fatalf("%q is read with %q", text, in.raw)
			}
			labels[in.label] = true
			again, err := parseInputs(in.label + "=" + in.raw)
			if err != nil || len(again) != 1 || len(again[0].components) != len(in.components) {
				t.Fatalf("%q of %q is read in another way alone: %v", in.raw, text, err)
			}
		}
	})
}

// FuzzParseBytes holds that each value has one name, and one spelling.
func FuzzParseBytes(f *testing.F) {
	for _, text := range []string{"wimse=:AAAA:", "wimse=:AA\r\nAA:", "sha-256=:AAAA:, sha-512=:AA==:", "a=::", "a=:A:", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		out, err := parseBytes(text)
		if err != nil {
			return
		}
		if len(out) == 0 || len(out) > maxMembers {
			t.Fatalf("%q is read as %v", text, out)
		}
		for label, value := range out {
			if spelled := label + "=:" + base64.StdEncoding.EncodeToString(value) + ":"; !strings.Contains(text, spelled) {
				t.Fatalf("%q is read as if it had %q", text, spelled)
			}
		}
	})
}

// FuzzVerify holds that nobody without the key is let in, whatever a request says.
func FuzzVerify(f *testing.F) {
	for _, kind := range []Kind{Signature, Token} {
		h := newScene(f, kind).prove().header
		f.Add("POST", "/v1/orders?dry=1", h.Get(InputField), h.Get(SignatureField), h.Get(ProofField), h.Get("Content-Digest"))
	}
	f.Add("GET", "/", `a=("@method" "@path" "@query" "workload-identity-token")`, "a=:AAAA:", "", "")
	stranger := newOwner('z')
	f.Fuzz(func(t *testing.T, method, target, input, signature, proof, digest string) {
		s := newScene(t, Signature)
		s.m.Method, s.m.Target = method, target
		s.header = http.Header{TokenField: {"T.T.T"}}
		for name, value := range map[string]string{InputField: input, SignatureField: signature, ProofField: proof, "Content-Digest": digest} {
			if value != "" {
				s.header.Set(name, value)
			}
		}
		s.m.Fields = s.header
		if Verify(s.m, "T.T.T", "x", stranger, s.check) == nil {
			t.Fatalf("%s %s with %q %q %q is a stranger's", method, target, input, signature, proof)
		}
	})
}
