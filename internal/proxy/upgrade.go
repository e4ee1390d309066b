package proxy

import (
	"net/http"
	"strings"
)

// upgrade is what becomes of a wish to speak another protocol.
type upgrade int

const (
	noUpgrade upgrade = iota
	webSocket         // passed on
	toIgnore          // the request is served as if it were not there
	toRefuse
)

// upgrades reads the Upgrade fields. HTTP/2 and TLS inside the connection would
// carry requests past every later decision; who offers them goes on without
// (RFC 9110 7.8), as curl and Java do with each first request. A protocol we do
// not know is all its caller wants: an answer in HTTP would be taken for that
// protocol, or for the application's fault, so it is refused in words.
func upgrades(head http.Header) upgrade {
	values := head["Upgrade"]
	if len(values) == 0 {
		return noUpgrade
	}
	if len(values) == 1 && sameWord(strings.TrimSpace(values[0]), "websocket") {
		return webSocket
	}
	for _, value := range values {
		for word := range strings.SplitSeq(value, ",") {
			name, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(word)), "/")
			switch name {
			case "", "h2c", "h2", "http", "tls", "websocket":
			default:
				return toRefuse
			}
		}
	}
	return toIgnore
}
