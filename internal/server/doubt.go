package server

import (
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// maxDoubts bounds the warnings one refusal lists.
const maxDoubts = 20

// doubtful refuses a change that brings a warning where the caller wants none.
func (p plan) doubtful(req *pb.ApplyRequest) error {
	if !req.GetStrict() || len(p.warnings) == 0 {
		return nil
	}
	shown := p.warnings[:min(len(p.warnings), maxDoubts)]
	return fault.Hint(fault.Invalidf("%d warnings, and none is wanted (strict):\n%s", len(p.warnings), strings.Join(shown, "\n")),
		"kith rules lint says why each is one; without --strict they do not stop the change")
}
