package wimse

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Structured fields (RFC 9651) as far as the profile needs them, and in the one
// spelling that serializing gives: what is signed is then what was received, and
// no two readers see different things in it.

const (
	maxMembers    = 8
	maxComponents = 64
	maxParameters = 16
)

// parameter is one parameter; value is a string, int64 or bool.
type parameter struct {
	name  string
	value any
}

// component is a covered component, with its parameters.
type component struct {
	name       string
	parameters []parameter
}

// input is one member of Signature-Input.
type input struct {
	label      string
	raw        string // components and parameters as they came, which is what is signed
	components []component
	parameters []parameter
}

func (in input) text(name string) (string, bool) {
	text, ok := find(in.parameters, name).(string)
	return text, ok
}

func (in input) integer(name string) (int64, bool) {
	n, ok := find(in.parameters, name).(int64)
	return n, ok
}

// find is the value of a parameter, nil if there is none.
func find(parameters []parameter, name string) any {
	for _, p := range parameters {
		if p.name == name {
			return p.value
		}
	}
	return nil
}

// reader reads a structured field from its start.
type reader struct {
	text string
	at   int
}

var errForm = errors.New("is not a structured field in the form that is written")

func (r *reader) rest() string { return r.text[r.at:] }
func (r *reader) end() bool    { return r.at == len(r.text) }

// take takes a piece of text if it comes next.
func (r *reader) take(text string) bool {
	if !strings.HasPrefix(r.rest(), text) {
		return false
	}
	r.at += len(text)
	return true
}

// key is RFC 9651 3.1.2.
func (r *reader) key() (string, error) {
	start := r.at
	for !r.end() {
		c := r.text[r.at]
		letter := c >= 'a' && c <= 'z' || c == '*'
		if !letter && (r.at == start || c != '_' && c != '-' && c != '.' && (c < '0' || c > '9')) {
			break
		}
		r.at++
	}
	if r.at == start || r.at-start > 128 {
		return "", errForm
	}
	return r.text[start:r.at], nil
}

// quoted is RFC 9651 3.3.3.
func (r *reader) quoted() (string, error) {
	if !r.take(`"`) {
		return "", errForm
	}
	var out strings.Builder
	for !r.end() {
		c := r.text[r.at]
		r.at++
		switch {
		case c == '"':
			return out.String(), nil
		case c == '\\':
			if r.end() || r.text[r.at] != '"' && r.text[r.at] != '\\' {
				return "", errForm
			}
			out.WriteByte(r.text[r.at])
			r.at++
		case c < ' ' || c > '~':
			return "", errForm
		default:
			out.WriteByte(c)
		}
	}
	return "", errForm
}

// integer is RFC 9651 3.3.1, without a sign: only times are integers here.
func (r *reader) integer() (int64, error) {
	start := r.at
	for !r.end() && r.text[r.at] >= '0' && r.text[r.at] <= '9' {
		r.at++
	}
	digits := r.text[start:r.at]
	if len(digits) == 0 || len(digits) > 15 || len(digits) > 1 && digits[0] == '0' {
		return 0, errForm
	}
	return strconv.ParseInt(digits, 10, 64)
}

// bare is the value of a parameter.
func (r *reader) bare() (any, error) {
	switch {
	case r.end():
		return nil, errForm
	case r.take("?1"):
		return nil, errForm // written without a value
	case r.take("?0"):
		return false, nil
	case r.text[r.at] == '"':
		return r.quoted()
	default:
		return r.integer()
	}
}

func (r *reader) parameters() ([]parameter, error) {
	var out []parameter
	for r.take(";") {
		name, err := r.key()
		if err != nil {
			return nil, err
		}
		if find(out, name) != nil || len(out) == maxParameters {
			return nil, fmt.Errorf("has the parameter %s twice, or too many", name)
		}
		var value any = true
		if r.take("=") {
			if value, err = r.bare(); err != nil {
				return nil, err
			}
		}
		out = append(out, parameter{name, value})
	}
	return out, nil
}

// parseInputs reads Signature-Input. RFC 9421 4.1.
func parseInputs(text string) ([]input, error) {
	r := &reader{text: text}
	var out []input
	for {
		label, err := r.key()
		if err != nil || !r.take("=") {
			return nil, errForm
		}
		for _, other := range out {
			if other.label == label {
				return nil, fmt.Errorf("has the label %s twice", label)
			}
		}
		in := input{label: label}
		start := r.at
		if in.components, err = r.components(); err != nil {
			return nil, err
		}
		if in.parameters, err = r.parameters(); err != nil {
			return nil, err
		}
		in.raw = text[start:r.at]
		if out = append(out, in); r.end() {
			return out, nil
		}
		if !r.take(", ") && !r.take(",") || len(out) == maxMembers {
			return nil, errForm
		}
	}
}

func (r *reader) components() ([]component, error) {
	if !r.take("(") {
		return nil, errForm
	}
	var out []component
	for !r.take(")") {
		if len(out) > 0 && !r.take(" ") || len(out) == maxComponents {
			return nil, errForm
		}
		name, err := r.quoted()
		if err != nil {
			return nil, err
		}
		parameters, err := r.parameters()
		if err != nil {
			return nil, err
		}
		for _, other := range out {
			if other.name == name && len(other.parameters) == len(parameters) {
				return nil, fmt.Errorf("covers %q twice", name)
			}
		}
		out = append(out, component{name, parameters})
	}
	return out, nil
}

// parseBytes reads a dictionary of byte sequences: Signature, Content-Digest.
func parseBytes(text string) (map[string][]byte, error) {
	r := &reader{text: text}
	out := make(map[string][]byte)
	for {
		label, err := r.key()
		if err != nil || !r.take("=:") {
			return nil, errForm
		}
		encoded, _, closed := strings.Cut(r.rest(), ":")
		if !closed {
			return nil, errForm
		}
		value, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil || strings.ContainsAny(encoded, "\r\n") { // strict mode skips line ends
			return nil, errForm
		}
		if _, twice := out[label]; twice || len(out) == maxMembers {
			return nil, fmt.Errorf("has %s twice, or too many", label)
		}
		out[label] = value
		if r.at += len(encoded) + 1; r.end() {
			return out, nil
		}
		if !r.take(", ") && !r.take(",") {
			return nil, errForm
		}
	}
}

// quote writes a string.
func quote(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}
