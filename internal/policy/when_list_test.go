package policy

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A list with more entries than are looked through is not known, whoever reads it:
// all() must not be true of what is only its beginning.
func TestListsThatAreTooLongAreUnknown(t *testing.T) {
	words := func(n int) string { return strings.Repeat("a ", n-1) + "z" }
	for text, short := range map[string]outcome{
		`jwt.scope.all(s, s == "a" || s == "z")`: holds,
		`jwt.scope.all(s, s == "a")`:             fails,
		`jwt.scope.exists(s, s == "a")`:          holds,
		`"a" in jwt.scope`:                       holds,
		`"a b" in jwt.scope`:                     fails,
		`jwt.scope[0] == "a"`:                    holds,
		`size(jwt.scope) > 1`:                    holds,
		`peer.path[0] == "a"`:                    holds,
		`peer.path[0] in ["b", "z"]`:             fails,
		`peer.path.all(s, s == "a" || s == "z")`: holds,
		`"z" in peer.path`:                       holds,
		`size(peer.path) == 256`:                 holds,
	} {
		c, err := compileCondition(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for n, want := range map[int]outcome{maxClaims: short, maxClaims + 1: unknown} {
			f := Facts{Token: fixed{"scope": words(n)}}
			r := requestOf(&f)
			in := inputOf(&r, "/"+strings.ReplaceAll(words(n), " ", "/"))
			program, err := standardProgram(text, c)
			if err != nil {
				t.Fatal(err)
			}
			if ops, interpreted := c.eval(in), program.eval(in); ops != want || interpreted != want {
				t.Errorf("%s of %d: got %d, the interpreter %d; want %d", text, n, ops, interpreted, want)
			}
		}
	}
}

func standardProgram(text string, c *condition) (*interpreted, error) {
	d, err := standardDialect()
	if err != nil {
		return nil, err
	}
	return d.interpret(text, c.refs())
}

// What is a word of a text is what strings.Fields says.
func TestWordsAreAsFieldsCutsThem(t *testing.T) {
	letters := rapid.SampledFrom([]string{"a", "b", "é", " ", "\t", "\u00a0", "\u2003", "\u0085", "\xe2\x80", "\xff", "\x83"})
	rapid.Check(t, func(rt *rapid.T) {
		text := strings.Join(rapid.SliceOfN(letters, 0, 12).Draw(rt, "text"), "")
		words := append(strings.Fields(text), "a", "ab", "é")
		word := rapid.SampledFrom(words).Draw(rt, "word")
		if got, want := hasWord(text, word), slices.Contains(words[:len(words)-3], word); got != want {
			rt.Fatalf("%q in %q: got %t", word, text, got)
		}
	})
}
