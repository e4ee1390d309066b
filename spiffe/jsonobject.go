package spiffe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

const maxJSONDepth = 32

// parseObject reads one JSON object whose names are unique. encoding/json
// alone would fold case and let the last of two equal names win. The values are
// parts of data.
func parseObject(data []byte) (map[string]json.RawMessage, error) {
	if !json.Valid(data) {
		if json.NewDecoder(bytes.NewReader(data)).Decode(new(json.RawMessage)) == nil {
			return nil, errors.New("something follows the JSON object")
		}
		return nil, errors.New("not a JSON object")
	}
	w := walk{data, 0}
	if w.space(); data[w.at] != '{' {
		return nil, errors.New("not a JSON object")
	}
	object := make(map[string]json.RawMessage)
	err := w.members(func(name string, value []byte) error {
		if _, twice := object[name]; twice {
			return fmt.Errorf("name %q occurs twice", clip(name))
		}
		object[name] = value
		return nil
	})
	return object, err
}

// uniqueNames refuses objects in which a name occurs twice, at any depth of a
// value that is good JSON.
func uniqueNames(value []byte, depth int) error {
	w := walk{value, 0}
	each := func(value []byte) error { return uniqueNames(value, depth+1) }
	switch value[0] {
	case '{', '[':
		if depth == maxJSONDepth {
			return fmt.Errorf("nested deeper than %d", maxJSONDepth)
		}
	}
	switch value[0] {
	case '[':
		return w.elements(each)
	case '{':
		seen := make(map[string]bool)
		return w.members(func(name string, value []byte) error {
			if seen[name] {
				return fmt.Errorf("name %q occurs twice", clip(name))
			}
			seen[name] = true
			return each(value)
		})
	}
	return nil
}

// walk goes over JSON that json.Valid has found good, so it looks for no faults;
// a decoder would, once more, and allocate for each token.
type walk struct {
	data []byte
	at   int
}

// members visits what is in the object that begins here.
func (w *walk) members(visit func(name string, value []byte) error) error {
	return w.parts('}', func() error {
		raw := w.value()
		name, ok := stringOf(raw)
		if !ok {
			return errors.New("not a JSON object")
		}
		w.space()
		w.at++ // the colon
		w.space()
		return visit(name, w.value())
	})
}

// elements visits what is in the array that begins here.
func (w *walk) elements(visit func(value []byte) error) error {
	return w.parts(']', func() error { return visit(w.value()) })
}

// parts calls one at each part of the object or array that begins here.
func (w *walk) parts(end byte, one func() error) error {
	w.at++ // the brace or bracket
	for w.space(); w.data[w.at] != end; w.space() {
		if w.data[w.at] == ',' {
			w.at++
			continue
		}
		if err := one(); err != nil {
			return err
		}
	}
	w.at++
	return nil
}

// space skips what may stand between two tokens.
func (w *walk) space() {
	for w.at < len(w.data) {
		switch w.data[w.at] {
		case ' ', '\t', '\r', '\n':
			w.at++
		default:
			return
		}
	}
}

// value is the value that begins here.
func (w *walk) value() json.RawMessage {
	from, depth := w.at, 0
	for {
		switch w.data[w.at] {
		case '"':
			w.text()
		case '{', '[':
			depth++
			w.at++
		case '}', ']':
			depth--
			w.at++
		case ',', ':', ' ', '\t', '\r', '\n':
			w.at++
		default:
			w.word()
		}
		if depth == 0 {
			return w.data[from:w.at:w.at]
		}
	}
}

// text skips a string.
func (w *walk) text() {
	for w.at++; w.data[w.at] != '"'; w.at++ {
		if w.data[w.at] == '\\' {
			w.at++
		}
	}
	w.at++
}

// word skips a number, true, false or null.
func (w *walk) word() {
	for w.at < len(w.data) {
		switch w.data[w.at] {
		case ',', '}', ']', ' ', '\t', '\r', '\n':
			return
		}
		w.at++
	}
}

// stringOf is the text that a JSON value holds; ok is false if it holds another
// kind, or nothing.
func stringOf(raw json.RawMessage) (text string, ok bool) {
	if plain(raw) {
		return string(raw[1 : len(raw)-1]), true
	}
	var s *string
	if raw == nil || json.Unmarshal(raw, &s) != nil || s == nil {
		return "", false
	}
	return *s, true
}

// plain reports whether a value is a string that stands for itself.
func plain(raw json.RawMessage) bool {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return false
	}
	for _, c := range raw[1 : len(raw)-1] {
		if c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
