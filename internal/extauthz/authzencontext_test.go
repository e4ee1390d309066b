package extauthz

import (
	"testing"

	"github.com/kith-id/kith/internal/policy"
)

// AuthZEN 5.4: conditions read of the context what they have names for, and nobody's
// clock but the agent's.
func TestAuthZEN54ConditionsReadTheContext(t *testing.T) {
	for when, contexts := range map[string]map[string]bool{
		`request.source_ip.within("192.0.2.0/24")`: {
			`{"ip_address":"192.0.2.7"}`:   true,
			`{"ip_address":"192.0.3.7"}`:   false,
			`{"ip_address":"192.0.2.7/"}`:  false, // no address
			`{"ip_address":["192.0.2.7"]}`: false,
			`{"IP_ADDRESS":"192.0.2.7"}`:   false, // not known, and passed over
			`{}`:                           false,
			`null`:                         false,
		},
		`request.headers["x-env"] == "prod"`: {
			`{"headers":{"X-Env":"prod"}}`:          true,
			`{"headers":{"X-Env":["prod"]},"x":{}}`: true,
			`{"headers":{"X-Env":"test"}}`:          false,
			`{"headers":{"X-Env":["prod","prod"]}}`: false,
			// Attack 19: by another spelling, which back ends may take for it.
			`{"headers":{"X-Env":"prod","x_env":"test"}}`: false,
			`{"headers":{"X_Env":"prod"}}`:                false,
			`{"headers":{"X-Env":"prod","x_other":"a"}}`:  true,
			`{"headers":{"X-Env":true}}`:                  false,
			`{"headers":["X-Env","prod"]}`:                false,
			`{"x-env":"prod"}`:                            false,
		},
		`request.host == "orders.example"`: {
			`{"host":"orders.example"}`: true,
			`{"host":"other.example"}`:  false,
			`{"host":7}`:                false,
		},
		`request.time < timestamp("2001-01-01T00:00:00Z")`: {
			`{"time":"2000-01-01T00:00:00Z"}`: false,
		},
	} {
		sl := slice(service("orders", policy.HTTP))
		sl.Rules[0].When = when
		_, s := newDesk(t, sl)
		for context, want := range contexts {
			wants(t, s, evaluationPath, "{"+subject+","+reading+","+resource+`,"context":`+context+"}", 200, want)
			// As a default of a batch, and in place of the default (7.1.1).
			wants(t, s, batchPath, "{"+subject+","+reading+","+resource+`,"context":`+context+`,"evaluations":[{},{"context":{"none":1}}]}`, 200, want, false)
		}
	}
}

// What the context and an entity both say they have to say alike.
func TestAuthZEN54TwoWordsAreNone(t *testing.T) {
	_, s := newPDP(t)
	at := func(properties string) string {
		return `"subject":{"type":"spiffe","id":"WEB","properties":{` + properties + "}}," + reading
	}
	in := func(properties string) string {
		return subject + "," + reading + `,"resource":{"type":"service","id":"orders","properties":{"path":"/v1/x",` + properties + "}}"
	}
	for question, want := range map[string]bool{
		at(`"ip_address":"192.0.2.7"`) + "," + resource + `,"context":{"ip_address":"192.0.2.7"}`: true,
		at(`"ip_address":"192.0.2.7"`) + "," + resource + `,"context":{"ip_address":"192.0.2.8"}`: false,
		in(`"host":"a"`) + `,"context":{"host":"a"}`:                                              true,
		in(`"host":"a"`) + `,"context":{"host":"b"}`:                                              false,
		in(`"host":""`) + `,"context":{"host":"b"}`:                                               false, // it has none: that is a word
		at(`"ip_address":""`) + "," + resource + `,"context":{"ip_address":"192.0.2.7"}`:          false,
		in(`"host":null`) + `,"context":{"host":"b"}`:                                             true,
		in(`"headers":{}`) + `,"context":{"headers":{"A":"b"}}`:                                   false,
		in(`"port":80`) + `,"context":{"port":81}`:                                                false,
		in(`"headers":{"A":"b"}`) + `,"context":{"headers":{"A":"b"}}`:                            false,
		in(`"headers":{"A":"b"}`) + `,"context":{"host":"a","port":8080}`:                         true,
		subject + "," + reading + "," + resource + `,"context":{"port":0}`:                        false,
	} {
		wants(t, s, evaluationPath, "{"+question+"}", 200, want)
	}
}
