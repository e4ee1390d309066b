package usertoken

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// Set is the providers of one service, ready to be asked. It is immutable. The
// nil Set knows nobody.
type Set struct {
	byIssuer map[string]*entry
	places   []location // of all, each once
}

type entry struct {
	Provider
	places []location
	fixed  *spiffe.JWKSet // of a provider whose keys are given
}

// Validate checks providers as a whole: each by itself, and that no service has
// two of one issuer, of which nobody could say whose a token is.
func Validate(providers map[string]Provider) error {
	if len(providers) > MaxProviders {
		return fault.Invalidf("providers: %d of them, at most %d", len(providers), MaxProviders)
	}
	var faults []error
	names := slices.Sorted(maps.Keys(providers))
	for i, name := range names {
		p := providers[name]
		if p.Name != name {
			faults = append(faults, fault.Invalidf("providers.%s: is kept under another name than its own, %q", name, clip(p.Name)))
		}
		if err := p.Validate(); err != nil {
			faults = append(faults, err)
		}
		for _, other := range names[:i] {
			if o := providers[other]; o.Issuer == p.Issuer && meet(o.Services, p.Services) {
				faults = append(faults, fault.Hint(fault.Invalidf("providers.%s.issuer: %q is that of provider %s, for the same service", name, clip(p.Issuer), other),
					"give both audiences to one provider, or each its own services:"))
			}
		}
	}
	return fault.Wrap(fault.Invalid, errors.Join(faults...))
}

// meet is true if some service is in both lists, an empty one being all.
func meet(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// Compile is the set of one service. A provider that cannot be read is an error:
// its tokens must not be taken for somebody else's.
func Compile(providers []Provider, service string) (*Set, error) {
	s := &Set{byIssuer: make(map[string]*entry)}
	for _, p := range providers {
		if !p.For(service) {
			continue
		}
		if err := p.Validate(); err != nil {
			return nil, err
		}
		if other, twice := s.byIssuer[p.Issuer]; twice {
			return nil, fault.Invalidf("providers %s and %s are of one issuer", other.Name, p.Name)
		}
		places, err := p.locations()
		if err != nil {
			return nil, err
		}
		e := &entry{Provider: p, places: places}
		if p.Keys != "" {
			if e.fixed, err = spiffe.ParseJWKSet([]byte(p.Keys)); err != nil {
				return nil, fault.Wrap(fault.Invalid, err)
			}
		}
		s.byIssuer[p.Issuer] = e
		for _, l := range places {
			if !slices.Contains(s.places, l) {
				s.places = append(s.places, l)
			}
		}
	}
	return s, nil
}

// Len is the number of providers.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.byIssuer)
}

// Found is a token in a request, unread; its zero value is none.
type Found struct {
	Text string
	at   location
}

// Find looks for the token of a request. Tokens in two places are an error, even
// if they are the same one.
func (s *Set) Find(c Carrier) (Found, error) {
	var found Found
	if s == nil {
		return found, nil
	}
	for _, l := range s.places {
		text, err := c.find(l)
		switch {
		case err != nil:
			return Found{}, err
		case text == "":
		case found.Text != "":
			return Found{}, errTwo
		default:
			found = Found{text, l}
		}
	}
	return found, nil
}

// Token is a token that was good when it was checked. It is immutable.
type Token struct {
	*spiffe.UserToken

	Provider string
	// Claims are everything it says, numbers as json.Number. They are shared: who
	// gets them changes nothing in them.
	Claims map[string]any

	bound []byte // the hash of the certificate it is bound to, if it is
}

// errNoKeys says that the keys of a token's provider are not here.
var errNoKeys = errors.New("the provider's keys are not known here")

// errNotTheirs says that somebody shows a token that is bound to another.
var errNotTheirs = errors.New("the token is bound to another certificate than the caller's")

// check reads a token and checks it by the provider it says it is of.
func (s *Set) check(found Found, keys map[string]*spiffe.JWKSet, now time.Time) (*Token, error) {
	parsed, err := spiffe.ParseUserToken(found.Text)
	if err != nil {
		return nil, err
	}
	p := s.byIssuer[parsed.Issuer]
	switch {
	case p == nil:
		return nil, fmt.Errorf("token of issuer %q, which is no provider's", clip(parsed.Issuer))
	case !slices.Contains(p.places, found.at):
		return nil, fmt.Errorf("token of provider %s stands in %s", p.Name, found.at)
	}
	set := p.fixed
	if set == nil {
		set = keys[p.URL]
	}
	if set == nil {
		return nil, fmt.Errorf("token of provider %s: %w", p.Name, errNoKeys)
	}
	err = parsed.Check(spiffe.UserTokenCheck{Issuer: p.Issuer, Audiences: p.Audiences, Algorithms: p.Algorithms, Keys: set, Now: now})
	if err != nil {
		return nil, &Refused{Provider: p.Name, KeyID: parsed.KeyID(), err: err}
	}
	t := &Token{UserToken: parsed, Provider: p.Name, Claims: parsed.Claims()}
	if t.bound, err = confirmation(parsed.Claim("cnf")); err != nil {
		return nil, fmt.Errorf("token of provider %s: %w", p.Name, err)
	}
	if p.Bound && t.bound == nil {
		return nil, fmt.Errorf("token of provider %s is not bound to a certificate", p.Name)
	}
	return t, nil
}

// Refused is a token that a provider's keys do not make good.
type Refused struct {
	Provider, KeyID string
	err             error
}

// Error is the reason.
func (r *Refused) Error() string { return r.err.Error() }

// Unwrap is the reason, for [spiffe.ErrUnknownKey].
func (r *Refused) Unwrap() error { return r.err }

// confirmation is the certificate a token is bound to, nil if to none. A token
// bound to anything else is an error: we are shown no proof of it.
func confirmation(cnf json.RawMessage) ([]byte, error) {
	if cnf == nil {
		return nil, nil
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(cnf, &members) != nil || len(members) != 1 {
		return nil, errors.New("is bound to something unknown")
	}
	var text string
	if json.Unmarshal(members["x5t#S256"], &text) != nil {
		return nil, errors.New("is bound to something else than a certificate")
	}
	hash, err := base64.RawURLEncoding.Strict().DecodeString(text) // skips line ends, so both lengths count
	if err != nil || len(hash) != sha256.Size || len(text) != base64.RawURLEncoding.EncodedLen(sha256.Size) {
		return nil, errors.New("is bound to a malformed certificate hash")
	}
	return hash, nil
}

// boundTo says whether a caller with this leaf certificate may show the token
// (RFC 8705 3.1). One that is bound to nothing anybody may show who may call.
func (t *Token) boundTo(leaf *[sha256.Size]byte) bool {
	return t.bound == nil || leaf != nil && string(t.bound) == string(leaf[:])
}
