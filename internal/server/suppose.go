package server

import (
	"time"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
)

// suppose adds to a request what conditions read besides.
func (s *Server) suppose(to *policy.Request, req *pb.TestRequest) error {
	supposed := policy.Supposed{
		Headers: req.GetHeaders(), Query: req.GetQuery(), Host: req.GetHost(), SNI: req.GetSni(), Source: req.GetSource(),
		Claims: req.GetClaims(), At: s.cfg.Now(),
	}
	if at := req.GetAtUnixNano(); at != 0 {
		supposed.At = time.Unix(0, at)
	}
	return supposed.Fill(to)
}
