package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// shellWords splits a line as sh does: quotes and backslashes, nothing else.
func shellWords(line string) (words []string) {
	var word strings.Builder
	inWord, quote := false, byte(0)
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteByte(c)
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == '\\' && i+1 < len(line):
			i++
			word.WriteByte(line[i])
			inWord = true
		case c == ' ':
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}

// read is the rule that the words of a command line say, read by the real verb.
func read(t interface{ Fatalf(string, ...any) }, words []string) *pb.Rule {
	root := new(app).root()
	cmd, rest, err := root.Find(words[1:])
	if err != nil {
		t.Fatalf("%q: %v", words, err)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Fatalf("%q: %v", words, err)
	}
	rule, err := ruleOf(cmd, cmd.Flags().Args())
	if err != nil {
		t.Fatalf("%q: %v", words, err)
	}
	return rule
}

// roundTrip takes a rule through its command line and through YAML, and back.
func roundTrip(t interface{ Fatalf(string, ...any) }, rule *pb.Rule) string {
	line := commandLine(rule)
	if got := read(t, shellWords(line)); !proto.Equal(got, rule) {
		t.Fatalf("%s\ngot  %v\nwant %v", line, got, rule)
	}
	text, err := config.EncodeObject(&pb.Object{Kind: &pb.Object_Rule{Rule: rule}})
	if err != nil {
		t.Fatalf("%v: %v", rule, err)
	}
	state, err := config.ParseState("rule.yaml", text)
	if err != nil || len(state.Objects) != 1 || !proto.Equal(state.Objects[0].GetRule(), rule) {
		t.Fatalf("%s\ngot  %v, %v\nwant %v", text, state.Objects, err, rule)
	}
	return line
}

func genLineRule() *rapid.Generator[*pb.Rule] {
	word := rapid.SampledFrom([]string{"web", "any", "anonymous", "/n/web", "/n/*", "/**", "spiffe://other.example/a/**", "batch"})
	sources := func(least int) *rapid.Generator[[]string] {
		return rapid.SliceOfN(word, least, 3)
	}
	action := rapid.SampledFrom([]string{
		"GET /v1/{id}", "* /{**}", "GET,POST /a%20b", "GET  /two/spaces", "-X /dash", "tcp", "tcp 5432", "grpc a.b/*", "GET /$HOME", "GET /it's", "GET /`x`", "GET /!x", "'Q /a", "GET /{*}",
	})
	actions := rapid.SliceOfN(action, 1, 3)
	return rapid.Custom(func(t *rapid.T) *pb.Rule {
		r := &pb.Rule{
			Name: rapid.StringMatching(`[a-z]([a-z0-9-]{0,8}[a-z0-9])?`).Draw(t, "name"),
			From: sources(1).Draw(t, "from"), To: rapid.SampledFrom([]string{"orders", "any", "/n/*", "on"}).Draw(t, "to"),
			Owner: rapid.SampledFrom([]string{"cli", "cli", "shop", "a b", "it's", "-x"}).Draw(t, "owner"),
		}
		except := func() {
			if list := sources(0).Draw(t, "except"); len(list) > 0 {
				r.Except = list
			}
		}
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			r.Allow = actions.Draw(t, "allow")
		case 1:
			r.Deny, r.Guardrail = actions.Draw(t, "deny"), rapid.Bool().Draw(t, "guardrail")
			except()
		case 2:
			r.Allow, r.Deny = actions.Draw(t, "allow"), actions.Draw(t, "deny")
			except()
		default:
			r.Boundary = actions.Draw(t, "boundary")
			except()
		}
		if rapid.Bool().Draw(t, "conditional") {
			r.When = rapid.OneOf(
				rapid.SampledFrom([]string{`request.headers["x-env"] == "prod"`, `'a' in peer.path && request.host != "$(x)"`, "a\nb", `\`, "--", `"`, "é!"}),
				rapid.StringMatching(`[ -~\n]{1,20}`),
			).Draw(t, "when")
		}
		if rapid.Bool().Draw(t, "shadow") {
			r.Mode = "shadow"
		}
		if rapid.Bool().Draw(t, "derived") {
			r.Name = derivedName(r)
		}
		return r
	})
}

// YAML and the one-line form say exactly the same rule, for every kind of rule
// and whatever stands in its words; sh reads the line as the test does.
func TestRulesRoundTrip(t *testing.T) {
	t.Parallel()
	var script bytes.Buffer
	var want []string
	rapid.Check(t, func(rt *rapid.T) {
		line := roundTrip(rt, genLineRule().Draw(rt, "rule"))
		script.WriteString("printf '%s\\0' " + line + "\n")
		want = append(want, shellWords(line)...)
	})
	cmd := exec.Command("sh")
	cmd.Stdin = &script
	out, err := cmd.Output()
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); err != nil || strings.Join(got, "\x00") != strings.Join(want, "\x00") {
		t.Fatalf("sh reads %d words, %v; want %d", len(got), err, len(want))
	}
}

// What YAML can say and the engine takes, one line can say.
func FuzzRulesRoundTrip(f *testing.F) {
	for _, rule := range []string{
		`{name: r, from: web, to: orders, allow: ["GET /v1/{**}"]}`,
		`{name: r, from: [web, any], to: orders, allow: ["GET /"], deny: ["-X /a"], except: /n/web, when: 'request.port == 1'}`,
		`{name: r, from: any, to: orders, deny: ["* /{**}"], guardrail: true, mode: shadow}`,
		`{name: r, from: /n/*, to: any, boundary: ["GET /a", tcp], except: [web]}`,
	} {
		f.Add("owner: shop\nrules:\n  - " + rule + "\n")
	}
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		state, err := config.ParseState("rule.yaml", []byte(text))
		if err != nil {
			return
		}
		for _, o := range state.Objects {
			rule, err := policy.RuleFromPB(o.GetRule())
			if err != nil || rule.Owner == "" {
				continue
			}
			set := policy.Set{TrustDomain: td, Services: map[string]policy.Service{}, Rules: map[string]policy.Rule{rule.Name: rule}}
			for name, protocol := range map[string]policy.Protocol{"web": policy.HTTP, "orders": policy.HTTP, "db": policy.TCP} {
				set.Services[name] = policy.Service{Name: name, Identities: []string{"/n/" + name}, Protocol: protocol}
			}
			if _, err := set.Validate(); err == nil {
				roundTrip(t, rule.PB())
			}
		}
	})
}
