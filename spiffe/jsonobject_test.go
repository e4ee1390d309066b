package spiffe

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// decoded is parseObject by encoding/json's own decoder, token by token. How deep
// a text may be nested it asks of each value alone, so that is asked of the whole
// text first.
func decoded(data []byte) (map[string]json.RawMessage, error) {
	if !json.Valid(data) {
		return nil, errors.New("no JSON")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, errors.New("no object")
	}
	object := make(map[string]json.RawMessage)
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string)
		if _, ok := object[name]; ok {
			return nil, errors.New("twice")
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, err
		}
		object[name] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("more follows")
	}
	return object, nil
}

// objects are JSON in unusual clothes, and what is none.
func objects() []string {
	return []string{
		`{}`, ` { } `, `{"a":1}`, "\t{ \"a\" : [ 1 , {\"b\":\"}\"} ] , \"c\" : null }\n", `{"a":"\\\"","b":"\\\\"}`, `{"\u0061":1,"b":2}`,
		`{"a":1,"a":2}`, `{"\u0061":1,"a":2}`, `{"A":1,"a":2}`, `{"":{"":{"":[]}}}`, `{"a":-1.5e+3,"b":true,"c":false}`, "{\"\xff\":1,\"\xfe\":2}",
		`{"a":[[],[{}],"x"]}`, `{"a":1}{`, `{"a":1} x`, `[]`, `"a"`, `1`, ``, ` `, `{`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `{a:1}`, `nul`, `null`, "\ufeff{}",
	}
}

func FuzzObject(f *testing.F) {
	for _, text := range objects() {
		f.Add([]byte(text))
	}
	const deepest = 10000 // of encoding/json
	f.Add([]byte(`{"a":` + strings.Repeat("[", deepest) + strings.Repeat("]", deepest) + "}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		want, wantErr := decoded(data)
		got, err := parseObject(data)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: got %v, the decoder says %v", data, err, wantErr)
		}
		if err != nil {
			return
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q: the decoder has, we have:\n%s", data, diff)
		}
		for name, value := range got {
			_ = uniqueNames(value, 1)
			var plainText any
			if text, ok := stringOf(value); ok && (json.Unmarshal(value, &plainText) != nil || plainText != text) {
				t.Fatalf("%q: %q is read as %q, the decoder says %v", data, name, text, plainText)
			}
		}
	})
}

func TestNamesAreUniqueAtEveryDepth(t *testing.T) {
	for text, good := range map[string]bool{
		`{"a":{"b":1,"c":[{"b":1},{"b":2}]}}`: true, `{"a":{"b":1,"b":2}}`: false, `{"a":[{"b":[{"c":1,"\u0063":2}]}]}`: false,
		`{"a":` + strings.Repeat("[", maxJSONDepth-1) + strings.Repeat("]", maxJSONDepth-1) + `}`: true,
		`{"a":` + strings.Repeat("[", maxJSONDepth) + strings.Repeat("]", maxJSONDepth) + `}`:     false,
	} {
		if _, err := parseStrict([]byte(text)); (err == nil) != good {
			t.Errorf("%.60s: got %v, good is %v", text, err, good)
		}
	}
}
