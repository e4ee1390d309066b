package extauthz

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kith-id/kith/internal/fault"
)

const (
	maxBody  = 256 << 10 // of a question, compressed and plain
	maxDepth = 32        // of JSON
)

// readBody is the body of a question. One that is compressed is no longer than
// any other once it is plain.
func readBody(r *http.Request) ([]byte, error) {
	long := fault.Invalidf("request body too large: at most %d bytes are read", maxBody)
	if r.ContentLength > maxBody {
		return nil, long
	}
	body := io.LimitReader(r.Body, maxBody+1)
	switch coding := r.Header.Get("Content-Encoding"); coding {
	case "", "identity":
	case "gzip":
		plain, err := gzip.NewReader(body)
		if err != nil {
			return nil, fault.Invalidf("could not decompress the body: %w", err)
		}
		body = io.LimitReader(plain, maxBody+1)
	default:
		return nil, fault.Invalidf("content coding %q is not read", clip(coding, maxShort))
	}
	text, err := io.ReadAll(body)
	switch {
	case err != nil:
		return nil, fault.Invalidf("read the body: %w", err)
	case len(text) > maxBody:
		return nil, long
	}
	return text, nil
}

// readJSON reads one value with nothing behind it; numbers stay text. A name that
// stands twice in an object is refused, as readers differ on which one counts.
func readJSON(text []byte) (any, error) {
	if !utf8.Valid(text) {
		return nil, fault.Invalidf("the JSON is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := readValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fault.Invalidf("something follows the JSON value")
	}
	return v, nil
}

func readValue(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	switch {
	case errors.Is(err, io.EOF):
		return nil, fault.Invalidf("the JSON ends early")
	case err != nil:
		return nil, fault.Invalidf("malformed JSON: %w", err)
	case depth > maxDepth:
		return nil, fault.Invalidf("the JSON is nested more than %d deep", maxDepth)
	}
	switch token {
	case json.Delim('{'):
		return readObject(d, depth)
	case json.Delim('['):
		out := []any{}
		for d.More() {
			v, err := readValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		_, err := d.Token()
		return out, malformed(err)
	default:
		return token, nil
	}
}

func readObject(d *json.Decoder, depth int) (any, error) {
	out := map[string]any{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, malformed(err)
		}
		name, ok := token.(string)
		if !ok {
			return nil, fault.Invalidf("malformed JSON: a name that is no string")
		}
		if _, twice := out[name]; twice {
			return nil, fault.Invalidf("the JSON says %q twice", clip(name, maxShort))
		}
		if out[name], err = readValue(d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return out, malformed(err)
}

func malformed(err error) error {
	if err == nil {
		return nil
	}
	return fault.Invalidf("malformed JSON: %w", err)
}

// object reads the members of a JSON object and keeps the first fault.
type object struct {
	what string
	m    map[string]any
	seen map[string]bool
	err  error
}

// objectOf is v as an object; one that is none has a fault.
func objectOf(what string, v any) *object {
	m, ok := v.(map[string]any)
	o := &object{what: what, m: m, seen: map[string]bool{}}
	if !ok {
		o.fail("%s is no object", what)
	}
	return o
}

func (o *object) fail(format string, args ...any) {
	if o.err == nil {
		o.err = fault.Invalidf(format, args...)
	}
}

func (o *object) take(name string) any {
	o.seen[name] = true
	return o.m[name]
}

// text is a string member; "" if there is none.
func (o *object) text(name string) string {
	v := o.take(name)
	text, ok := v.(string)
	if !ok && v != nil {
		o.fail("%s.%s is no string", o.what, name)
	}
	return text
}

// needed is a string member that must be there and not empty.
func (o *object) needed(name string) string {
	text := o.text(name)
	if text == "" {
		o.fail("%s.%s is missing", o.what, name)
	}
	return text
}

// rest is the fault of an object that says more than was read.
func (o *object) rest() {
	for _, name := range slices.Sorted(maps.Keys(o.m)) {
		if !o.seen[name] {
			o.fail("%s.%s is not known", o.what, clip(name, maxShort))
		}
	}
}

func (o *object) port(name string) uint16 {
	v := o.take(name)
	if v == nil {
		return 0
	}
	number, _ := v.(json.Number)
	port, err := strconv.ParseUint(number.String(), 10, 16)
	if err != nil || port == 0 {
		o.fail("%s.%s is no port", o.what, name)
	}
	return uint16(port)
}

func (o *object) address(name string) netip.Addr {
	text := o.text(name)
	if text == "" {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		o.fail("%s.%s is no IP address", o.what, name)
	}
	return addr.Unmap()
}

// headers is an object of header fields, each a string or a list of strings; nil
// if there is none, so that conditions on headers cannot be evaluated.
func (o *object) headers(name string) fields {
	v := o.take(name)
	if v == nil {
		return nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		o.fail("%s.%s is no object", o.what, name)
		return nil
	}
	out := make(fields, len(m))
	for _, field := range slices.Sorted(maps.Keys(m)) {
		values, ok := m[field].([]any)
		if !ok {
			values = []any{m[field]}
		}
		key := textproto.CanonicalMIMEHeaderKey(field)
		for _, value := range values {
			text, ok := value.(string)
			if !ok {
				o.fail("%s.%s.%s is neither a string nor a list of strings", o.what, name, clip(field, maxShort))
			}
			if !strings.HasPrefix(field, ":") {
				out[key] = append(out[key], text)
			}
		}
	}
	return out
}
