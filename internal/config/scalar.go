package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/kith-id/kith/spiffe"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/registry"
)

// Duration is a time.Duration written as Go does: "90s", "1h30m".
type Duration time.Duration

// UnmarshalText reads "1h"; a bare number has no unit and is refused.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration: write it like 30s, 10m or 24h", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes whole hours and minutes without their zeros: 24h, 1h30m.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String is the shortest form ParseDuration reads back.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Size is a number of bytes written with its unit: "64KiB", "1GiB".
type Size int64

// units are those of a Size, largest first.
func units() []struct {
	name  string
	bytes int64
} {
	return []struct {
		name  string
		bytes int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}
}

// UnmarshalText reads "64MiB"; a bare number has no unit and is refused.
func (s *Size) UnmarshalText(text []byte) error {
	for _, u := range units() {
		number, ok := strings.CutSuffix(string(text), u.name)
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(number, 10, 20); err == nil {
			*s = Size(int64(n) * u.bytes)
			return nil
		}
	}
	return fmt.Errorf("%q is not a size: write it like 64KiB, 16MiB or 1GiB", text)
}

// MarshalText writes the largest unit that leaves a whole number.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String is the form that UnmarshalText reads back.
func (s Size) String() string {
	for _, u := range units() {
		if int64(s) >= u.bytes && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + " bytes"
}

// domain is a trust domain read from a file.
type domain struct{ spiffe.TrustDomain }

// UnmarshalText refuses what is no trust domain name.
func (t *domain) UnmarshalText(text []byte) error {
	td, err := spiffe.ParseTrustDomain(string(text))
	t.TrustDomain = td
	return err
}

// MarshalText writes the bare name.
func (t domain) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// word is text from a closed set: its type says which.
type word interface{ words() []string }

// Level is the least important kind of log line written.
type Level string

func (Level) words() []string { return []string{"debug", "info", "warn", "error"} }

// UnmarshalText refuses a level that does not exist.
func (l *Level) UnmarshalText(text []byte) error { return choose((*string)(l), text, l.words()) }

// Format is the form of the log.
type Format string

func (Format) words() []string { return []string{"text", "json"} }

// UnmarshalText refuses a format that does not exist.
func (f *Format) UnmarshalText(text []byte) error { return choose((*string)(f), text, f.words()) }

// Share is a part of a whole, from 0 to 1.
type Share float64

// PathForm is how paths are written to the decision log.
type PathForm string

func (PathForm) words() []string { return []string{"template", "raw"} }

// UnmarshalText refuses a form that does not exist.
func (p *PathForm) UnmarshalText(text []byte) error { return choose((*string)(p), text, p.words()) }

// keep is the one thing a path option can say.
type keep bool

func (keep) words() []string { return []string{"keep"} }

// UnmarshalText reads "keep"; leaving the key out refuses such paths.
func (k *keep) UnmarshalText(text []byte) error {
	var s string
	err := choose(&s, text, k.words())
	*k = err == nil
	return err
}

// MarshalText is only asked for a true one: the key is omitted otherwise.
func (keep) MarshalText() ([]byte, error) { return []byte("keep"), nil }

// protocol is what a service speaks.
type protocol string

func (protocol) words() []string {
	return []string{policy.HTTP.String(), policy.GRPC.String(), policy.TCP.String()}
}

// UnmarshalText refuses a protocol that does not exist.
func (p *protocol) UnmarshalText(text []byte) error { return choose((*string)(p), text, p.words()) }

// profile is how a bundle endpoint is known.
type profile string

func (profile) words() []string {
	return []string{string(registry.HTTPSWeb), string(registry.HTTPSSPIFFE)}
}

// UnmarshalText refuses a profile that does not exist.
func (p *profile) UnmarshalText(text []byte) error { return choose((*string)(p), text, p.words()) }

// effect is what a test expects of a decision.
type effect string

func (effect) words() []string { return []string{policy.Allow.String(), policy.Deny.String()} }

// UnmarshalText refuses what no decision can be, and keeps it: it is not missing.
func (e *effect) UnmarshalText(text []byte) error {
	*e = effect(text)
	return choose((*string)(e), text, e.words())
}

// ruleMode is the mode of a rule; enforce is what a rule without one does.
type ruleMode string

func (ruleMode) words() []string { return []string{"enforce", "shadow"} }

// UnmarshalText refuses a mode that does not exist.
func (m *ruleMode) UnmarshalText(text []byte) error {
	err := choose((*string)(m), text, m.words())
	if *m == "enforce" {
		*m = ""
	}
	return err
}

// serviceMode is the mode of a service; enforce is what a service without one does.
type serviceMode string

func (serviceMode) words() []string { return []string{"enforce", "observe"} }

// UnmarshalText refuses a mode that does not exist.
func (m *serviceMode) UnmarshalText(text []byte) error {
	err := choose((*string)(m), text, m.words())
	if *m == "enforce" {
		*m = ""
	}
	return err
}

// proofKind is how a request proves whose it is.
type proofKind string

func (proofKind) words() []string { return []string{"signature", "wpt"} }

// UnmarshalText refuses a kind that does not exist.
func (k *proofKind) UnmarshalText(text []byte) error { return choose((*string)(k), text, k.words()) }

// count is a small number.
type count uint16

// choose sets *to to text if it is one of the words.
func choose(to *string, text []byte, words []string) error {
	for _, w := range words {
		if string(text) == w {
			*to = w
			return nil
		}
	}
	if len(words) == 1 {
		return fmt.Errorf("%q is not possible: only %s is", text, words[0])
	}
	msg := fmt.Sprintf("%q is not one of %s", text, strings.Join(words, ", "))
	if n := fault.Nearest(string(text), words); n != "" {
		msg += fmt.Sprintf(" (nearest: %s)", n)
	}
	return errors.New(msg)
}
