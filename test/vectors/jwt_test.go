package vectors_test

import (
	"encoding/json"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/kith-id/kith/spiffe"
)

// jwsFile is a Wycheproof file of signatures in compact serialization.
type jwsFile struct {
	NumberOfTests int
	TestGroups    []struct {
		Comment string
		Public  json.RawMessage // a JWK or a set of them
		Private json.RawMessage
		Tests   []struct {
			ID      int `json:"tcId"`
			Comment string
			JWS     json.RawMessage // a text, or an object in JSON serialization
			Result  string
			Flags   []string
		}
	}
}

func readJWS(t *testing.T, name string) jwsFile {
	t.Helper()
	text, err := fs.ReadFile(wycheproof.TestVectors, name)
	if err != nil {
		t.Fatal(err)
	}
	var file jwsFile
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file
}

// keysOf reads a JWK, or a set, as a bundle would hold it: a key for signatures,
// by its use or its alg, becomes one for JWT-SVIDs, without its private half. What then is left out of
// the bundle, or makes it an error, verifies nothing.
func keysOf(t *testing.T, raw json.RawMessage) []spiffe.JWTKey {
	t.Helper()
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	if set.Keys == nil {
		var one map[string]any
		if err := json.Unmarshal(raw, &one); err != nil {
			t.Fatal(err)
		}
		set.Keys = []map[string]any{one}
	}
	for _, key := range set.Keys {
		if key["use"] == "sig" || key["use"] == nil && key["alg"] != nil {
			key["use"] = "jwt-svid"
		}
		if key["kty"] != "oct" {
			for _, private := range []string{"d", "p", "q", "dp", "dq", "qi"} {
				delete(key, private)
			}
		}
	}
	document, err := json.Marshal(map[string]any{"keys": set.Keys})
	if err != nil {
		t.Fatal(err)
	}
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := spiffe.ParseBundle(td, document)
	if err != nil {
		return nil
	}
	return bundle.JWTKeys()
}

// accepted reports whether one of the keys verifies the vector.
func accepted(keys []spiffe.JWTKey, jws json.RawMessage) bool {
	var token string
	if json.Unmarshal(jws, &token) != nil {
		token = string(jws) // JSON serialization, as it is
	}
	return slices.ContainsFunc(keys, func(key spiffe.JWTKey) bool {
		_, err := key.Verify(token)
		return err == nil
	})
}

// refused says why we refuse a vector that Wycheproof accepts, or "".
func refused(group, comment string, key json.RawMessage) string {
	switch {
	case strings.Contains(string(key), `"kty":"oct"`) || strings.Contains(string(key), `"kty": "oct"`):
		return "a symmetric key is no key of a bundle"
	case strings.HasPrefix(group, "jwe_"):
		return "nothing here is encrypted"
	case comment == "emptyPayload":
		return "a JWT-SVID has claims"
	case strings.HasPrefix(group, "rfc7520") && comment == "Figure20":
		return "the key is for PS256 alone, and the token says PS384"
	case strings.HasPrefix(group, "rfc7520") && comment == "Figure27":
		return "the key is for ES521, which there is not"
	}
	return ""
}

// runJWS holds every vector of a file against its result; at least so many must
// be accepted, so that the others are not refused for a reason of their own.
func runJWS(t *testing.T, name string, least int) {
	t.Helper()
	file := readJWS(t, name)
	ran, good := 0, 0
	for _, group := range file.TestGroups {
		raw := group.Public
		if raw == nil {
			raw = group.Private // of symmetric keys, and sets
		}
		keys := keysOf(t, raw)
		for _, test := range group.Tests {
			ran++
			got, why := accepted(keys, test.JWS), refused(group.Comment, test.Comment, raw)
			if got {
				good++
			}
			switch {
			case got && test.Result != "valid":
				t.Errorf("%s %d (%s: %s %q) is accepted, Wycheproof says %s", name, test.ID, group.Comment, test.Comment, test.Flags, test.Result)
			case got && why != "":
				t.Errorf("%s %d (%s: %s) is accepted although: %s", name, test.ID, group.Comment, test.Comment, why)
			case !got && test.Result == "valid" && why == "":
				t.Errorf("%s %d (%s: %s) is refused, Wycheproof accepts it", name, test.ID, group.Comment, test.Comment)
			}
		}
	}
	if ran != file.NumberOfTests || good < least {
		t.Errorf("%s: %d of %d vectors ran, %d accepted where %d are to be", name, ran, file.NumberOfTests, good, least)
	}
}

// JWS: 401 vectors, most of them of PKCS #1 padding.
func TestWycheproofJWS(t *testing.T) { runJWS(t, "json_web_signature_test.json", 20) }

// JWK: key sets with mixed kinds, one kid twice, and keys that can be factored.
func TestWycheproofJWK(t *testing.T) { runJWS(t, "json_web_key_test.json", 1) }

// JWCrypto: both, and encryption, of which nothing may pass for a signature.
func TestWycheproofJWCrypto(t *testing.T) { runJWS(t, "json_web_crypto_test.json", 2) }
