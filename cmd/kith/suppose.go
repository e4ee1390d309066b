package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// supposition is what conditions would read of a call that has not happened.
type supposition struct {
	stdin                                       io.Reader
	headers                                     []string
	query, host, sni, source, at, claims, token string
	port                                        uint16
}

func (a *app) supposeFlags(cmd *cobra.Command) *supposition {
	s := &supposition{stdin: a.stdin}
	f := cmd.Flags()
	f.StringArrayVar(&s.headers, "header", nil, `a header the call would have, as "x-env: prod"; may be repeated`)
	f.StringVar(&s.query, "query", "", "its query, without the question mark")
	f.StringVar(&s.host, "host", "", "the host it would name")
	f.StringVar(&s.sni, "sni", "", "the server name of its TLS connection")
	f.StringVar(&s.source, "source", "", "the address it would come from")
	f.Uint16Var(&s.port, "port", 0, "the application's own port")
	f.StringVar(&s.at, "at", "", "when it would come, as 2027-01-01T03:00:00Z (default now)")
	f.StringVar(&s.claims, "claims", "", "the claims of a user's token, as a JSON object")
	f.StringVar(&s.token, "token", "", "a user's token whose claims are read, unverified; - for stdin")
	return s
}

// fill puts what was supposed into the question.
func (s *supposition) fill(req *pb.TestRequest) error {
	req.Headers, req.Host, req.Sni, req.Source, req.Claims = s.headers, s.host, s.sni, s.source, s.claims
	if s.query != "" {
		req.Query = s.query
	}
	if s.port != 0 {
		req.Port = uint32(s.port)
	}
	if s.at != "" {
		at, err := time.Parse(time.RFC3339, s.at)
		if err != nil {
			return fault.Hint(fault.Invalidf("--at: %q is no time", s.at), "as in 2027-01-01T03:00:00Z")
		}
		req.AtUnixNano = at.UnixNano()
	}
	switch {
	case s.token == "":
		return nil
	case s.claims != "":
		return fault.Invalidf("--token and --claims say the same thing twice")
	}
	token := s.token
	if token == "-" {
		text, err := io.ReadAll(io.LimitReader(s.stdin, maxTokenInput))
		if err != nil {
			return fmt.Errorf("read the token: %w", err)
		}
		token = string(text)
	}
	var err error
	req.Claims, err = claimsOf(token)
	return err
}

// claimsOf are the claims of a JWT, whoever signed it.
func claimsOf(token string) (string, error) {
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 {
		return "", fault.Hint(fault.Invalidf("--token: not a JWT"), "three parts with dots between; --claims takes the claims as JSON")
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", fault.Invalidf("--token: its claims are not base64url")
	}
	return string(claims), nil
}
