package policy

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

// MaxSamples is how many paths a flow keeps as examples of itself.
const MaxSamples = 4

// randomLength is from how many characters on a segment with both letters and
// digits counts as a random name.
const randomLength = 16

// Flow is requests that were decided alike, counted: one caller, one service,
// one method, one path template, one outcome.
type Flow struct {
	From     spiffe.ID // zero for an anonymous peer
	To       string    // service
	Protocol Protocol
	Method   string
	// Template is the path with what looks like a number or a random name as
	// {id}; see AppendTemplate. For gRPC it is the path itself.
	Template string
	Port     uint16
	Effect   Effect
	Rule     string
	Reason   Reason
	Count    uint64
	First    int64 // unix seconds
	Last     int64
	Samples  []string // at most MaxSamples paths, in normal form
}

// AppendTemplate appends the template of a path in normal form: each segment
// that is a number, a UUID, long hexadecimal, or long with letters and digits
// mixed becomes {id}; all others stay as literals. It allocates nothing if dst
// has room.
func AppendTemplate(dst []byte, path string) []byte {
	for len(path) > 0 {
		path = path[1:] // its slash
		end := strings.IndexByte(path, '/')
		if end < 0 {
			end = len(path)
		}
		segment := path[:end]
		path = path[end:]
		dst = append(dst, '/')
		if variable(segment) {
			dst = append(dst, "{id}"...)
			continue
		}
		for i := range len(segment) {
			if segment[i] == '*' {
				dst = append(dst, "%2A"...)
				continue
			}
			dst = append(dst, segment[i])
		}
	}
	return dst
}

// variable is true for a segment that names one of many things.
func variable(s string) bool {
	digits, hex, letters, other := 0, 0, 0, 0
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			digits++
		case 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F':
			hex++
		case 'g' <= c && c <= 'z' || 'G' <= c && c <= 'Z':
			letters++
		case c == '-' || c == '_':
			other++
		default:
			return len(s) > maxLiteral
		}
	}
	switch {
	case digits == 0 || len(s) > maxLiteral:
		return len(s) > maxLiteral
	case digits == len(s):
		return true
	case len(s) < randomLength:
		return false
	case letters == 0:
		return true // hexadecimal, with or without the dashes of a UUID
	}
	return digits >= 4 && other <= 2
}

// FlowFromPB reads a flow off the wire. What cannot be asked of a table again
// is refused: it was not counted by one of ours.
func FlowFromPB(m *pb.Flow) (Flow, error) {
	f := Flow{
		To: m.GetTo(), Method: m.GetMethod(), Template: m.GetTemplate(), Port: uint16(m.GetPort()),
		Rule: m.GetRule(), Count: m.GetCount(), First: m.GetFirstUnix(), Last: m.GetLastUnix(),
	}
	var err error
	if m.GetPort() > math.MaxUint16 {
		return Flow{}, fault.Invalidf("port: %d", m.GetPort())
	}
	if m.GetFrom() != "" {
		if f.From, err = spiffe.ParseID(m.GetFrom()); err != nil {
			return Flow{}, fault.Wrap(fault.Invalid, err)
		}
	}
	if f.Protocol, err = ParseProtocol(m.GetProtocol()); err != nil {
		return Flow{}, err
	}
	d, err := DecisionFromPB(&pb.Decision{Effect: m.GetEffect(), Reason: m.GetReason()})
	if err != nil {
		return Flow{}, err
	}
	f.Effect, f.Reason = d.Effect, d.Reason
	if !inOneLine(append([]string{f.To, f.Method, f.Template, f.Rule}, m.GetSamples()...)...) {
		return Flow{}, fault.Invalidf("a flow's words have characters that no request has")
	}
	switch {
	case m.GetPort() > 65535:
		return Flow{}, fault.Invalidf("port %d", m.GetPort())
	case f.Protocol == TCP:
		return f, nil
	case len(m.GetSamples()) == 0 || len(m.GetSamples()) > MaxSamples:
		return Flow{}, fault.Invalidf("flow with %d samples", len(m.GetSamples()))
	}
	for _, path := range m.GetSamples() {
		if len(path) > maxPath || path == "" || path[0] != '/' {
			return Flow{}, fault.Invalidf("sample is no path")
		}
	}
	f.Samples = m.GetSamples()
	return f, nil
}

// inOneLine is true for what a path in its normal form, a method and a name are
// made of. Flows come from enforcement points, of which some are anybody's, and end
// up in files and on screens: a sample with a line end would be a line of these.
func inOneLine(words ...string) bool {
	return !slices.ContainsFunc(words, func(word string) bool {
		return strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r >= 0x7f })
	})
}

// PB is the flow on the wire.
func (f Flow) PB() *pb.Flow {
	m := &pb.Flow{
		To: f.To, Protocol: f.Protocol.String(), Method: f.Method, Template: f.Template, Port: uint32(f.Port),
		Effect: f.Effect.String(), Rule: f.Rule, Reason: f.Reason.String(), Count: f.Count,
		FirstUnix: f.First, LastUnix: f.Last, Samples: f.Samples,
	}
	if !f.From.IsZero() {
		m.From = f.From.String()
	}
	return m
}

// Add counts other into f; the caller has seen that they are the same flow.
func (f *Flow) Add(other Flow) {
	f.Count += other.Count
	if other.First != 0 && (f.First == 0 || other.First < f.First) {
		f.First = other.First
	}
	f.Last = max(f.Last, other.Last)
	for _, path := range other.Samples {
		if len(f.Samples) < MaxSamples && !slices.Contains(f.Samples, path) {
			f.Samples = append(slices.Clip(f.Samples), path)
		}
	}
}

// SortFlows puts the most frequent first, in an order that is always the same.
func SortFlows(flows []Flow) {
	slices.SortFunc(flows, func(a, b Flow) int {
		return cmp.Or(
			cmp.Compare(b.Count, a.Count), cmp.Compare(a.To, b.To), cmp.Compare(a.From.String(), b.From.String()),
			cmp.Compare(a.Template, b.Template), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Reason, b.Reason),
		)
	})
}

// requests is the flow as a table is asked about it, one request a sample.
func (f Flow) requests() []Request {
	r := Request{Protocol: f.Protocol, Method: f.Method, Port: f.Port, GRPC: f.Protocol == GRPC}
	if f.Protocol == TCP {
		return []Request{r}
	}
	out := make([]Request, 0, len(f.Samples))
	for _, path := range f.Samples {
		r.Path = path
		out = append(out, r)
	}
	return out
}
