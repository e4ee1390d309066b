package proxy

import "bytes"

// field is one header field; its bytes are those of the head it was read from.
type field struct {
	name, value []byte
	kind        kind
}

// kind says what a field means to whoever forwards it.
type kind uint8

const (
	ordinary         kind = iota // passed on as it is
	hostField                    // one in a request, written anew
	lengthField                  // Content-Length, written anew
	encodingField                // Transfer-Encoding, written anew
	connectionField              // Connection, for this hop
	hopField                     // for this hop as well
	teField                      // for this hop; "trailers" is passed on
	trailerField                 // names trailers; those that may pass are passed on
	upgradeField                 // Upgrade
	expectField                  // Expect
	acceptField                  // Accept
	typeField                    // Content-Type
	dateField                    // Date
	idempotencyField             // Idempotency-Key
	decisionField                // Kith-Decision, ours alone
	identityField                // reserved: by which a caller could say who it is
)

// longestKnown is the length of the longest name kindOf knows.
const longestKnown = len("proxy-authentication-info")

// kindOf tells a field by its name, whose letters may be of either case.
func kindOf(name []byte) kind {
	var folded [longestKnown]byte
	if len(name) <= longestKnown {
		for i, c := range name {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			folded[i] = c
		}
		switch string(folded[:len(name)]) {
		case "host":
			return hostField
		case "content-length":
			return lengthField
		case "transfer-encoding":
			return encodingField
		case "connection":
			return connectionField
		// RFC 9110 7.6.1 and 11.7, and Proxy-Connection, which some still send.
		case "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "proxy-authentication-info":
			return hopField
		case "te":
			return teField
		case "trailer":
			return trailerField
		case "upgrade":
			return upgradeField
		case "expect":
			return expectField
		case "accept":
			return acceptField
		case "content-type":
			return typeField
		case "date":
			return dateField
		case "idempotency-key", "x-idempotency-key":
			return idempotencyField
		case "kith-decision":
			return decisionField
		}
	}
	if reserved(name) {
		return identityField
	}
	return ordinary
}

// readFields reads the lines of a head behind the first, up to and with the
// empty one, and appends them to into. What needs repair is refused: RFC 9112:
// line ends are CR LF (2.2), no folding (5.2), no space around the name (5.1).
func readFields(text []byte, into []field) (fields []field, rest []byte, err error) {
	for {
		line, rest, ok := cutLine(text)
		if !ok {
			return into, nil, errHead
		}
		if len(line) == 0 {
			return into, rest, nil
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || !isToken(name) {
			return into, nil, errHead
		}
		into = append(into, field{name: name, value: bytes.Trim(value, " \t"), kind: kindOf(name)})
		text = rest
	}
}

// connectionSays reads the value of a Connection field: whether it ends the
// connection, and whether it names other fields.
func connectionSays(value []byte) (closes, names bool) {
	for token := range bytes.SplitSeq(value, []byte(",")) {
		switch token = bytes.Trim(token, " \t"); {
		case len(token) == 0, sameWord(token, "keep-alive"):
		case sameWord(token, "close"):
			closes = true
		default:
			names = true
		}
	}
	return closes, names
}

// hasToken says whether a comma-separated value holds a word.
func hasToken(value []byte, word string) bool {
	for token := range bytes.SplitSeq(value, []byte(",")) {
		if sameWord(bytes.Trim(token, " \t"), word) {
			return true
		}
	}
	return false
}

// sameWord compares two words in any case. bytes.EqualFold would take "chunKed",
// with the sign for Kelvin, for "chunked", and no other program does.
func sameWord[T string | []byte](text T, word string) bool {
	if len(text) != len(word) {
		return false
	}
	for i := range len(text) {
		if lower(text[i]) != lower(word[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
