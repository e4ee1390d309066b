package policy

import (
	"strings"

	"github.com/kith-id/kith/internal/fault"
)

// maxWhen bounds the text of a condition.
const maxWhen = 2 << 10

// outcome is what a condition comes to. A condition knows three answers, as CEL
// does: false && unknown is false, true || unknown is true, all else that needs
// what is unknown is unknown.
type outcome uint8

const (
	fails outcome = iota
	holds
	unknown
)

// condition is a compiled `when`: clauses that must all hold. It is immutable and
// shared by all rules that spell it the same.
type condition struct {
	quick   quick // how only is asked, first as it is all that is read
	text    string
	clauses []clause
	only    *op // of a condition that is one comparison: that
	reads   Reads
	token   bool // reads jwt.*
	request bool // reads what only a request has, no connection
}

// clause is one operand of the condition's outermost &&.
type clause struct {
	text    string
	ops     []op         // the last one is the clause; none: program
	program *interpreted // where the shape is none that ops cover
	refs    []fact       // what it reads
}

// compileCondition type-checks a condition. Whatever it could not enforce is an
// error: a name that is not there, a wrong type, a cost without a bound.
func compileCondition(text string) (*condition, error) {
	if len(text) > maxWhen {
		return nil, fault.Invalidf("condition is longer than %d bytes", maxWhen)
	}
	if strings.TrimSpace(text) == "" {
		return nil, fault.Hint(fault.Invalidf("condition is blank"), `as in when: 'request.host == "shop.example"', or leave the key out`)
	}
	d, err := standardDialect()
	if err != nil {
		return nil, err
	}
	return d.compile(text)
}

// eval is the outcome for one request. A clause that fails decides, whatever
// others cannot know.
func (c *condition) eval(in *input) outcome {
	result := holds
	for i := range c.clauses {
		switch c.clauses[i].eval(in) {
		case fails:
			return fails
		case unknown:
			result = unknown
		}
	}
	return result
}

func (c *clause) eval(in *input) outcome {
	if n := len(c.ops); n > 0 {
		return c.evalOp(n-1, in, "")
	}
	return c.program.eval(in)
}

// failing is what keeps the condition from holding, joined as in the condition, and
// what of it was read.
func (c *condition) failing(in *input) (text, got string) {
	var texts, read []string
	for i := range c.clauses {
		if c.clauses[i].eval(in) == holds {
			continue
		}
		texts = append(texts, c.operand(i))
		if g := c.clauses[i].got(in); g != "" {
			read = append(read, g)
		}
	}
	if len(texts) == 0 {
		return c.text, ""
	}
	return strings.Join(texts, " && "), strings.Join(read, ", ")
}

// missed says why a condition on an allow did not hold.
func (c *condition) missed(o outcome, in *input) Reason {
	if o == fails {
		return CondFalse
	}
	if c.token {
		switch in.token() {
		case TokenNone:
			return TokenMissing
		case TokenRefused:
			return TokenInvalid
		}
	}
	return CondError
}

// fits refuses a condition on what a connection does not have.
func (c *condition) fits(a Action) error {
	if a.protocol == TCP && c.request {
		return fault.Hint(fault.Invalidf("%q cannot be enforced when %s: a connection has no such thing", a.String(), clip(c.text)),
			"for tcp a condition can read peer.*, request.port, request.sni, request.source_ip and request.time")
	}
	return nil
}
