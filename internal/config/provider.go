package config

import (
	"fmt"
	"path/filepath"

	"github.com/kith-id/kith/internal/pb"
)

// provider is who signs tokens for end users.
type provider struct {
	At position `yaml:"-"`
	// Name is what commands call it.
	Name string `yaml:"name"`
	// Issuer is the claim iss of its tokens, exactly.
	Issuer string `yaml:"issuer,omitempty"`
	// Audiences are those of which a token must name one.
	Audiences []string `yaml:"audiences,omitempty,flow"`
	// JWKS is where its keys are.
	JWKS jwks `yaml:"jwks,omitempty,flow"`
	// Algorithms are those that tokens may be signed with.
	Algorithms []string `yaml:"algorithms,omitempty,flow"`
	// Locations are where a request carries the token: bearer, "header X-User-Token",
	// "cookie session", "query access_token"; bearer if left out.
	Locations []string `yaml:"locations,omitempty,flow"`
	// Services are those whose requests may carry its tokens; all if left out.
	Services []string `yaml:"services,omitempty,flow"`
	// Bound takes only tokens that are bound to the caller's certificate.
	Bound bool `yaml:"bound,omitempty"`
}

// jwks says where the keys of a provider come from: one of the three. A file is
// read when the state is, and what it holds becomes part of it.
type jwks struct {
	// URL is the https address of a JWKS.
	URL string `yaml:"url,omitempty"`
	// Inline is a JWKS as it is, JSON.
	Inline string `yaml:"inline,omitempty"`
	// File holds a JWKS; it is read when the state is.
	File string `yaml:"file,omitempty"`
}

// keyFile is a file that a provider's keys are to be read from.
type keyFile struct {
	of   *pb.Provider
	path string
	at   position
}

func (p provider) object(owner string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_Provider{Provider: &pb.Provider{
		Name: p.Name, Issuer: p.Issuer, Audiences: p.Audiences, JwksUrl: p.JWKS.URL, Jwks: p.JWKS.Inline,
		Algorithms: p.Algorithms, Locations: p.Locations, Services: p.Services, Bound: p.Bound, Owner: owner,
	}}}
}

func providerOf(p *pb.Provider) provider {
	return provider{
		Name: p.GetName(), Issuer: p.GetIssuer(), Audiences: p.GetAudiences(), JWKS: jwks{URL: p.GetJwksUrl(), Inline: p.GetJwks()},
		Algorithms: p.GetAlgorithms(), Locations: p.GetLocations(), Services: p.GetServices(), Bound: p.GetBound(),
	}
}

// putProvider notes the file of a provider's keys, to be read by ReadState.
func (s *State) putProvider(d *decoder, p provider, owner string) {
	o := p.object(owner)
	if p.JWKS.File != "" {
		if p.JWKS.URL != "" || p.JWKS.Inline != "" {
			d.faultAt(p.At, "provider %q: jwks has a file and something else", p.Name)
		}
		s.keyFiles = append(s.keyFiles, keyFile{o.GetProvider(), p.JWKS.File, p.At})
	}
	s.put(d, p.At, "provider", p.Name, o)
}

// readKeyFiles reads the files that providers name, beside the file that does.
func (s *State) readKeyFiles() error {
	for _, f := range s.keyFiles {
		path := f.path
		if !filepath.IsAbs(path) && f.at.file != "stdin" {
			path = filepath.Join(filepath.Dir(f.at.file), path)
		}
		data, err := readFile(path)
		if err != nil {
			return fmt.Errorf("%s: keys of provider %s: %w", f.at, f.of.GetName(), err)
		}
		f.of.Jwks = string(data)
	}
	s.keyFiles = nil
	return nil
}
