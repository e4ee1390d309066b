package policy

import (
	"slices"
	"strconv"
	"strings"

	"github.com/kith-id/kith/internal/fault"
)

const (
	maxAction        = 2 << 10 // bytes of one action
	maxActionMethods = 16
	maxMethod        = 32 // bytes
)

// Action is what a rule allows or denies, parsed. Its String is canonical, and
// ParseAction reads it back.
type Action struct {
	protocol Protocol
	methods  []string // nil: any
	path     []part   // HTTP and gRPC
	port     uint16   // TCP; 0: any
}

// ParseAction reads one action:
//
//	GET,POST /v1/orders/{id}     methods are case-sensitive; GET is not HEAD
//	* /v1/orders/{**}            any method; {**} is zero or more segments
//	grpc shop.v1.Orders/List     the same as POST /shop.v1.Orders/List
//	grpc shop.v1.Orders/*        every method of the service
//	grpc *                       every method of every service
//	tcp                          a connection
//	tcp 5432                     a connection to the application's port 5432
func ParseAction(s string) (Action, error) { return parseAction(s, nil) }

func parseAction(s string, room *actionRoom) (Action, error) {
	if len(s) > maxAction {
		return Action{}, fault.Invalidf("action is longer than %d bytes", maxAction)
	}
	verb, operand, more := cutFields(s)
	switch {
	case verb == "":
		return Action{}, fault.Hint(fault.Invalidf("action is empty"), `as in "GET /v1/orders/{**}"`)
	case more:
		return Action{}, fault.Hint(fault.Invalidf("action %q has more than two words", clip(s)), "one action is one string; a space in a path is %%20")
	case verb == "tcp":
		return parseTCP(operand)
	case operand == "":
		return Action{}, fault.Hint(fault.Invalidf("action %q has no path", clip(s)), `as in "GET /v1/orders/{**}", "grpc shop.v1.Orders/List" or "tcp"`)
	case verb == "grpc":
		return parseGRPC(operand)
	default:
		return parseHTTP(verb, operand, room)
	}
}

// cutFields splits s in its two words; more is true if there is a third.
func cutFields(s string) (first, second string, more bool) {
	first, s = cutField(s)
	second, s = cutField(s)
	third, _ := cutField(s)
	return first, second, third != ""
}

func cutField(s string) (field, after string) {
	s = strings.TrimLeft(s, " ")
	if i := strings.IndexByte(s, ' '); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

func parseTCP(operand string) (Action, error) {
	if operand == "" {
		return Action{protocol: TCP}, nil
	}
	port, err := strconv.ParseUint(operand, 10, 16)
	if err != nil || port == 0 || strconv.FormatUint(port, 10) != operand {
		return Action{}, fault.Hint(fault.Invalidf("port %q is not a number from 1 to 65535", clip(operand)), `as in "tcp 5432"; "tcp" alone is every port`)
	}
	return Action{protocol: TCP, port: uint16(port)}, nil
}

func parseGRPC(operand string) (Action, error) {
	a := Action{protocol: GRPC, methods: []string{"POST"}}
	if operand == "*" {
		a.path = []part{{kind: one}, {kind: one}}
		return a, nil
	}
	service, method, ok := strings.Cut(operand, "/")
	if !ok || !isProtoName(service) || method != "*" && (!isProtoName(method) || strings.Contains(method, ".")) {
		return Action{}, fault.Hint(fault.Invalidf("%q is no gRPC method", clip(operand)), `as in "grpc shop.v1.Orders/List", "grpc shop.v1.Orders/*" or "grpc *"`)
	}
	a.path = []part{{text: service}, {text: method}}
	if method == "*" {
		a.path[1] = part{kind: one}
	}
	return a, nil
}

func isProtoName(name string) bool {
	start := true
	for i := range len(name) {
		switch c := name[i]; {
		case c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z', !start && '0' <= c && c <= '9':
			start = false
		case c == '.' && !start:
			start = true
		default:
			return false
		}
	}
	return !start && len(name) <= maxLiteral
}

func parseHTTP(verb, path string, room *actionRoom) (Action, error) {
	a := Action{protocol: HTTP}
	if verb != "*" {
		n := strings.Count(verb, ",") + 1
		if n > maxActionMethods {
			return Action{}, fault.Hint(fault.Invalidf("action has more than %d methods", maxActionMethods), "* is any method")
		}
		a.methods = room.methodsFor(n)
		for m, after, more := "", verb, true; more; {
			m, after, more = strings.Cut(after, ",")
			if err := checkMethod(m); err != nil {
				return Action{}, err
			}
			if slices.Contains(a.methods, m) {
				return Action{}, fault.Invalidf("method %s is listed twice", m)
			}
			a.methods = append(a.methods, m)
		}
	}
	var err error
	if a.path, err = parseTemplate(path, room); err != nil {
		return Action{}, err
	}
	// Its canonical text is read back; escapes are three bytes for one.
	if len(verb)+3*len(path) >= maxAction && len(a.String()) > maxAction {
		return Action{}, fault.Invalidf("action is longer than %d bytes once escaped", maxAction)
	}
	return a, nil
}

// checkMethod accepts an RFC 9110 token, less the * that would look like a pattern.
func checkMethod(m string) error {
	if m == "" || len(m) > maxMethod {
		return fault.Hint(fault.Invalidf("method is empty or longer than %d bytes", maxMethod), `as in "GET,POST /v1/orders"`)
	}
	for i := range len(m) {
		c := m[i]
		if 'A' <= c && c <= 'Z' {
			continue
		}
		if c >= 0x7f || c <= ' ' || strings.IndexByte(`*"(),/:;<=>?@[\]{}`, c) >= 0 {
			return fault.Hint(fault.Invalidf("method %q is no HTTP method", clip(m)), `as in "GET /v1/orders"; * alone is any method`)
		}
	}
	if m == "tcp" || m == "grpc" {
		return fault.Invalidf("%s does not go with other methods", m)
	}
	return nil
}

// Protocol is what the action is about: HTTP, GRPC or TCP.
func (a Action) Protocol() Protocol { return a.protocol }

// String is the action's canonical text, "" for the zero Action.
func (a Action) String() string {
	switch a.protocol {
	case TCP:
		if a.port == 0 {
			return "tcp"
		}
		return "tcp " + strconv.Itoa(int(a.port))
	case GRPC:
		if a.path[0].kind == one {
			return "grpc *"
		}
		return "grpc " + strings.TrimPrefix(templateText(a.path), "/")
	case HTTP:
		return a.methodText() + " " + templateText(a.path)
	default:
		return ""
	}
}

func (a Action) methodText() string {
	if a.methods == nil {
		return "*"
	}
	return strings.Join(a.methods, ",")
}

// fits is true if an enforcement point of a service that speaks p can enforce a.
func (a Action) fits(p Protocol) bool {
	return a.protocol.carriesRequests() == p.carriesRequests()
}

// covers is true if everything b is about, a is about too.
func (a Action) covers(b Action) bool {
	if a.protocol == TCP || b.protocol == TCP {
		return a.protocol == b.protocol && (a.port == 0 || a.port == b.port)
	}
	if a.methods != nil {
		for _, m := range b.methods {
			if !slices.Contains(a.methods, m) {
				return false
			}
		}
		if b.methods == nil {
			return false
		}
	}
	return covers(a.path, b.path)
}

// clip keeps what somebody else wrote short in an error.
func clip(s string) string {
	const most = 96
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
