package main

import (
	"fmt"
	"strings"
)

// placer finds the file and the line where a path such as rules.web-reads.allow[0]
// stands; the file is "" for what is in no file. A nil placer knows none.
type placer func(path string) (file string, line int)

// of is "file:line: " of what a line of text is about, "" where no file has it.
func (p placer) of(text string) string {
	if p == nil {
		return ""
	}
	path, _, _ := strings.Cut(text, ": ")
	file, line := p(path)
	if file == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d: ", file, line)
}

// placed is an error whose lines say where they stand.
type placed struct {
	error
	text string
}

func (p placed) Error() string { return p.text }

func (p placed) Unwrap() error { return p.error }

// in is err with the place of what each of its lines is about. Kind and hint stay.
func (p placer) in(err error) error {
	if err == nil {
		return nil
	}
	var b strings.Builder
	for line := range strings.Lines(err.Error()) {
		b.WriteString(p.of(line))
		b.WriteString(line)
	}
	return placed{err, b.String()}
}
