package policy

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// genClause is a condition in one of the shapes that need no interpreter; entry is
// what exists() or all() around it call what they are at, or empty.
func genClause(depth int, entry string) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		draw := func(label string) string { return genClause(depth-1, entry).Draw(t, label) }
		if depth > 0 {
			switch rapid.IntRange(0, 7).Draw(t, "join") {
			case 0:
				return "(" + draw("l") + " && " + draw("r") + ")"
			case 1:
				return "(" + draw("l") + " || " + draw("r") + ")"
			case 2:
				return "!(" + draw("n") + ")"
			case 3:
				return "(" + draw("if") + " ? " + draw("then") + " : " + draw("else") + ")"
			}
		}
		if rapid.Bool().Draw(t, "of terms") {
			return genTerms(depth, entry).Draw(t, "terms")
		}
		text := rapid.SampledFrom([]string{
			`request.method`, `request.path`, `request.host`, `request.sni`, `request.headers["x-env"]`, `request.query["q"]`,
			`peer.id`, `peer.trust_domain`, `peer.path[1]`, `jwt.sub`, `jwt.text("realm", "name")`,
		})
		literal := rapid.SampledFrom([]string{`"GET"`, `"a"`, `""`, `"shop"`, `"/a"`, `"acme.example"`, `"a b"`, `"ä€"`, `"\u00a0a"`, `"\U0001F600"`})
		number := genNumbers()
		compare := genCompare()
		value := rapid.SampledFrom([]string{"0", "1", "2", "12", "8080", "-1", "9223372036854775807", "-9223372036854775808", "9007199254740993"})
		list := rapid.SampledFrom([]string{`peer.path`, `jwt.aud`, `jwt.scope`, `jwt.list("realm", "roles")`})
		switch rapid.IntRange(0, 12).Draw(t, "shape") {
		case 0:
			return text.Draw(t, "text") + rapid.SampledFrom([]string{" == ", " != "}).Draw(t, "equality") + literal.Draw(t, "literal")
		case 1:
			return text.Draw(t, "text") + " in [" + literal.Draw(t, "a") + ", " + literal.Draw(t, "b") + "]"
		case 2:
			return strings.ReplaceAll(text.Draw(t, "text"), `peer.path[1]`, `request.path`) + rapid.SampledFrom([]string{".startsWith(", ".endsWith(", ".contains("}).Draw(t, "part") + literal.Draw(t, "literal") + ")"
		case 3:
			return number.Draw(t, "number") + " " + compare.Draw(t, "compare") + " " + value.Draw(t, "value")
		case 4:
			return number.Draw(t, "number") + " in [" + value.Draw(t, "v") + ", " + value.Draw(t, "w") + "]"
		case 5:
			return literal.Draw(t, "literal") + " in " + list.Draw(t, "list")
		case 6:
			return "request.source_ip.within(" + rapid.SampledFrom([]string{`"10.0.0.0/8"`, `["10.1.0.0/16", "fd00::/8"]`, `"203.0.113.9"`}).Draw(t, "nets") + ")"
		case 7:
			return "request.time " + compare.Draw(t, "compare") + " timestamp(" + rapid.SampledFrom(moments()).Draw(t, "moment") + ")"
		case 8:
			return rapid.SampledFrom([]string{`jwt.email_verified`, `jwt.flag("on") == false`, `jwt.flag("on") != true`, "true", "false"}).Draw(t, "flag")
		case 9:
			return "present(" + rapid.SampledFrom([]string{`request.headers["x-env"]`, `request.query["q"]`, `jwt.sub`, `jwt.number("level")`, `request.sni`, `peer.id`, `request.source_ip`, `jwt.list("realm", "roles")`}).Draw(t, "fact") + ")"
		case 10:
			return strings.ReplaceAll(text.Draw(t, "text"), `peer.path[1]`, `request.path`) + ".matches(" + rapid.SampledFrom([]string{`"^a$"`, `"a|G"`, `""`, `"[a-z]+/"`}).Draw(t, "pattern") + ")"
		case 11:
			sized := text.Draw(t, "text")
			if rapid.Bool().Draw(t, "of a list") {
				sized = list.Draw(t, "list")
			}
			sized = strings.ReplaceAll(sized, `peer.path[1]`, `peer.path`)
			return rapid.SampledFrom([]string{"size(" + sized + ")", sized + ".size()"}).Draw(t, "size") + " " + compare.Draw(t, "compare") + " " + value.Draw(t, "value")
		default:
			return rapid.SampledFrom([]string{`"x-env" in request.headers`, `"q" in request.query`, `8080 > request.port`}).Draw(t, "in")
		}
	})
}

// genTerms is a comparison of two things that are read, written or counted, or one
// of each entry of a list.
func genTerms(depth int, entry string) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		texts := []string{
			`request.method`, `request.path`, `request.host`, `request.headers["x-env"]`, `request.query["q"]`, `peer.trust_domain`,
			`peer.path[1]`, `peer.path[256]`, `jwt.sub`, `jwt.scope[0]`, `jwt.aud[255]`, `jwt.list("realm", "roles")[0]`, `"GET"`, `"a"`, `"shop"`, `""`, `"ä€"`,
		}
		if entry != "" {
			texts = append(texts, entry, entry, entry, entry)
		}
		text := rapid.SampledFrom(texts)
		number := rapid.OneOf(genNumbers(), rapid.SampledFrom([]string{`size(jwt.scope)`, `size(request.path)`, `peer.path.size()`, "2", "12"}))
		compare := genCompare()
		list := rapid.SampledFrom([]string{`peer.path`, `jwt.aud`, `jwt.scope`, `jwt.list("realm", "roles")`, `["a", "shop", "GET"]`, `["a", "a", ""]`})
		most := 6
		if entry != "" || depth <= 0 {
			most = 4 // one within another is refused
		}
		switch rapid.IntRange(0, most).Draw(t, "shape") {
		case 0:
			return text.Draw(t, "a") + " " + compare.Draw(t, "compare") + " " + text.Draw(t, "b")
		case 1:
			return number.Draw(t, "a") + " " + compare.Draw(t, "compare") + " " + number.Draw(t, "b")
		case 2:
			return text.Draw(t, "a") + rapid.SampledFrom([]string{".startsWith(", ".endsWith(", ".contains("}).Draw(t, "part") + text.Draw(t, "b") + ")"
		case 3:
			return text.Draw(t, "a") + " in " + list.Draw(t, "list")
		case 4:
			return text.Draw(t, "a") + `.matches("^[a-z]*$")`
		default:
			return list.Draw(t, "list") + rapid.SampledFrom([]string{".exists(", ".all("}).Draw(t, "which") + "s, " + genClause(depth-1, "s").Draw(t, "body") + ")"
		}
	})
}

func genCompare() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{"==", "!=", "<", "<=", ">", ">="})
}

// genNumbers are numbers that are read: each part of the time, in each kind of zone.
func genNumbers() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		if rapid.Bool().Draw(t, "plain") {
			return rapid.SampledFrom([]string{`request.port`, `jwt.number("level")`}).Draw(t, "number")
		}
		part := rapid.SampledFrom([]string{"FullYear", "Month", "DayOfYear", "DayOfMonth", "Date", "DayOfWeek", "Hours", "Minutes", "Seconds"}).Draw(t, "part")
		return "request.time.get" + part + "(" + rapid.SampledFrom([]string{"", `"-05:00"`, `"-00:30"`, `"+05:45"`, `"+14:00"`}).Draw(t, "zone") + ")"
	})
}

// moments are some, and the first and the last there are.
func moments() []string {
	return []string{`"2026-03-02T12:30:00Z"`, `"2026-03-02T12:30:00.5+05:45"`, `"0001-01-01T00:00:00Z"`, `"9999-12-31T23:59:59.999999999Z"`}
}

func genFacts() *rapid.Generator[*Facts] {
	return rapid.Custom(func(t *rapid.T) *Facts {
		if rapid.IntRange(0, 9).Draw(t, "none") == 0 {
			return nil
		}
		f := &Facts{
			SNI:   rapid.SampledFrom([]string{"", "a", "GET"}).Draw(t, "sni"),
			Query: rapid.SampledFrom([]string{"", "q=a", "q=a&q=a", "q=a%20b", "x=1", "%71=a", "q=%zz", "q", "q=a;x", "q=%ff", "q=%c3%a4%e2%82%ac"}).Draw(t, "query"),
			Headers: rapid.SampledFrom([]Headers{
				nil, http.Header{}, http.Header{"X-Env": {"a"}}, http.Header{"X-Env": {"a", "b"}}, http.Header{"X-Env": {""}}, http.Header{"X-Env": {"\xff\U0001F600"}}, http.Header{"X-Forwarded-For": {"203.0.113.9"}},
			}).Draw(t, "headers"),
			Token: rapid.SampledFrom([]Token{
				nil,
				claims{},
				claims{state: TokenRefused, json: `{"sub": "a"}`},
				claims{TokenValid, `{"sub": "a", "aud": "a", "level": 12, "on": true, "scope": "a GET"}`},
				claims{TokenValid, `{"sub": "ä€", "scope": "\tGET\u00a0 shopa  a\u2003"}`},
				claims{TokenValid, `{"sub": "", "scope": "\u00e4a shop\u00e4 \n"}`},
				claims{TokenValid, `{"sub": 1, "aud": ["a", "shop"], "level": 1.5, "on": "true", "realm": {"name": "shop", "roles": ["GET"]}, "email_verified": false}`},
				claims{TokenValid, `{"aud": ["a", 7], "level": 2, "realm": ["x"]}`},
				claims{TokenValid, `{"aud": [], "scope": "", "level": -9007199254740992, "realm": {"roles": ["", "shop", "shop"], "name": null}}`},
				claims{TokenValid, `{"sub": "a", "sub": "shop", "level": 9223372036854775807, "scope": ["a b", "GET"], "on": null}`},
				longClaims(maxClaims),
				longClaims(maxClaims + 1),
			}).Draw(t, "token"),
		}
		if rapid.Bool().Draw(t, "timed") {
			f.Time = noon().Add(time.Duration(rapid.IntRange(-2, 2).Draw(t, "hours")) * 7 * time.Hour)
			if rapid.IntRange(0, 3).Draw(t, "odd") == 0 {
				f.Time = rapid.SampledFrom([]time.Time{
					time.Date(2024, 12, 31, 23, 59, 59, 999_999_999, time.UTC), time.Date(2026, 3, 2, 12, 30, 0, 500_000_000, time.FixedZone("", 20700)), time.Unix(0, 0),
				}).Draw(t, "time")
			}
		}
		if rapid.Bool().Draw(t, "sourced") {
			f.Source = netip.MustParseAddr(rapid.SampledFrom([]string{"10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "203.0.113.9"}).Draw(t, "source"))
		}
		return f
	})
}

// longClaims has lists of n entries.
func longClaims(n int) claims {
	return claims{TokenValid, `{"aud": ["` + strings.Repeat(`a", "`, n-1) + `GET"], "scope": "` + strings.Repeat("a ", n-1) + `GET"}`}
}

// A condition comes to the same whether it is read as ops or by CEL's interpreter.
func TestOpsAndInterpreterAgree(t *testing.T) {
	checks(t)
	d, err := standardDialect()
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	rapid.Check(t, func(rt *rapid.T) {
		text := genClause(3, "").Draw(rt, "condition")
		c, err := d.compile(text)
		if err != nil && strings.Contains(err.Error(), "condition could cost") {
			return
		}
		if err != nil {
			rt.Fatalf("%s: %v", text, err)
		}
		compared++
		for _, part := range c.clauses {
			if len(part.ops) == 0 {
				rt.Fatalf("%s: clause %s needs an interpreter", text, part.text)
			}
		}
		program, err := d.interpret(text, c.refs())
		if err != nil {
			rt.Fatalf("%s: %v", text, err)
		}
		for range 20 {
			r := Request{
				Protocol: HTTP, Method: rapid.SampledFrom([]string{"GET", "a"}).Draw(rt, "method"), Path: rapid.SampledFrom([]string{"/a", "/a b"}).Draw(rt, "path"),
				Host: rapid.SampledFrom([]string{"", "a", "GET:80", "[::1]:80", "a:b:c", "SHOP."}).Draw(rt, "host"), Port: rapid.SampledFrom([]uint16{0, 1, 8080}).Draw(rt, "port"),
				Facts: genFacts().Draw(rt, "facts"),
			}
			in := inputOf(&r, rapid.SampledFrom([]string{"", "/eks/shop/web", "spiffe://other.example/a", strings.Repeat("/a", maxClaims), strings.Repeat("/a", maxClaims+1)}).Draw(rt, "peer"))
			if rapid.Bool().Draw(rt, "forwarded") {
				in.forwarder, in.peer.r.excepted = 1, []uint64{2}
			}
			ops, interpreted := c.eval(in), program.eval(in)
			if ops != interpreted {
				rt.Fatalf("%s of %+v %+v: ops say %d, the interpreter %d", text, r, r.Facts, ops, interpreted)
			}
			if quick := c.outcome(in); quick != ops {
				rt.Fatalf("%s of %+v %+v: asked the quickest way %d, else %d", text, r, r.Facts, quick, ops)
			}
		}
	})
	if compared == 0 {
		t.Error("no condition was cheap enough")
	}
}

// refs is all that a condition reads.
func (c *condition) refs() []fact {
	var all []fact
	for _, part := range c.clauses {
		all = append(all, part.refs...)
	}
	return all
}
