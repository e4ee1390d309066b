package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/obs"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/testenv"
)

func TestExitCodeOfEachKind(t *testing.T) {
	t.Parallel()
	killed := exec.Command("sh", "-c", "kill -KILL $$").Run()
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{fmt.Errorf("anything"), 1},
		{fault.Invalidf("bad"), 2},
		{fmt.Errorf("wrapped: %w", fault.Hint(fault.NotFoundf("gone"), "hint")), 3},
		{fault.Conflictf("there"), 4},
		{fault.Deniedf("no"), 5},
		{exitError(22), 22},
		{exec.Command("sh", "-c", "exit 7").Run(), 7},
		{killed, 137},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("exit code of %v: got %d, want %d", c.err, got, c.want)
		}
	}
}

func TestReportEndsWithTheHint(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{exitError(3), ""},
		{fault.Hint(fault.Invalidf("one\ntwo"), "do this"), "error: one\n       two\nhint: do this\n"},
		{fs.ErrNotExist, "error: file does not exist\n"},
		{fault.Hint(fault.Invalidf("rule \x1b[2J\r"), "\u202eoops\xff"), "error: rule \\u001b[2J\\u000d\nhint: \\u202eoops\\ufffd\n"},
	} {
		var out strings.Builder
		report(&out, c.err)
		if got := out.String(); got != c.want {
			t.Errorf("report(%v): got %q, want %q", c.err, got, c.want)
		}
	}
}

func TestNearestSuggestsOnlyWhatIsMeant(t *testing.T) {
	t.Parallel()
	verbs := []string{"allow", "apply", "agent", "watch", "why"}
	for word, want := range map[string]string{"alow": "allow", "aply": "apply", "wach": "watch", "teleport": "", "": ""} {
		if got := fault.Nearest(word, verbs); got != want {
			t.Errorf("nearest(%q): got %q, want %q", word, got, want)
		}
	}
}

// TestDerivedNameIsAName: whatever a rule says, its name is one that the server
// takes; the same words give the same name and other words another one.
func TestDerivedNameIsAName(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(1, 300, 600)
		rule := &pb.Rule{From: []string{text.Draw(t, "from")}, To: text.Draw(t, "to"), Allow: []string{text.Draw(t, "action")}}
		name := derivedName(rule)
		if err := registry.ValidateName(name); err != nil {
			t.Fatalf("derivedName(%v) is %q: %v", rule, name, err)
		}
		if again := derivedName(rule); again != name {
			t.Fatalf("the same rule has two names: %q and %q", name, again)
		}
		rule.Allow = append(rule.Allow, "GET /other")
		if derivedName(rule) == name {
			t.Fatalf("two rules have the name %q", name)
		}
	})
}

func TestParseJoinRefusesAllElse(t *testing.T) {
	t.Parallel()
	pin := "sha256-" + strings.Repeat("ab", 32)
	good, err := parseJoin("control.example:8440/" + pin + "/token")
	if err != nil || good.server != "control.example:8440" || good.token != "token" || good.pin.String() != pin {
		t.Errorf("a good line: got %v, %v", good.server, err)
	}
	for _, bad := range []string{"", "a/b", "host/" + pin + "/t", "host:1/sha256-zz/t", "host:1/" + pin + "/t/u"} {
		_, err := parseJoin(bad)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.HintOf(err), "kith nodes add") {
			t.Errorf("parseJoin(%q): got %v, want invalid with a hint", bad, err)
		}
	}
}

func FuzzParseJoin(f *testing.F) {
	pin := "sha256-" + strings.Repeat("ab", 32)
	const token = "Zm9yIG5vIGV5ZXMgYnV0IHRoZSBzZXJ2ZXIncyBvd24" // its Z is part of no escape
	for _, seed := range [][2]string{{"control.example:8440", pin}, {"kith join x", "y"}, {"x/y:1", pin}, {"x:1", strings.ToUpper(pin)}, {" [::1]:1", pin}, {"", ""}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, address, pin string) {
		text := address + "/" + pin + "/" + token
		line, err := parseJoin(text)
		switch {
		case err == nil && line.server+"/"+line.pin.String()+"/"+line.token != strings.TrimSpace(text):
			t.Errorf("%q is read as %q, %s and %q", text, line.server, line.pin, line.token)
		case err != nil && !strings.Contains(address+"/"+pin, token) && strings.Contains(err.Error()+fault.HintOf(err), token):
			t.Errorf("the error repeats the token: %v", err)
		}
	})
}

func TestJoinAddressIsOneThatOthersCanDial(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		":8440": "control:8440", "0.0.0.0:8440": "control:8440", "[::]:1": "control:1",
		"10.0.0.1:8440": "10.0.0.1:8440", "127.0.0.1:0": "",
	} {
		if got := joinAddress(listen, "control"); got != want {
			t.Errorf("joinAddress(%q): got %q, want %q", listen, got, want)
		}
	}
}

// TestListsSpeakJSON asks a real server by the code of the verbs.
func TestListsSpeakJSON(t *testing.T) {
	d := testenv.Start(t)
	t.Setenv("KITH_RUN_DIR", d.RunDir)
	for _, line := range []string{"rules", "services", "nodes", "ids", "status", "doctor", "version"} {
		var out, trouble strings.Builder
		a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &trouble, now: obs.Now}
		if err := a.main(t.Context(), append(strings.Fields(line), "-o", "json")); err != nil {
			t.Errorf("kith %s -o json: %v %s", line, err, trouble.String())
		}
		if first := strings.TrimSpace(out.String()); !utf8.ValidString(first) || first == "" || (first[0] != '[' && first[0] != '{') {
			t.Errorf("kith %s -o json: got %q", line, first)
		}
	}
}

// TestHelpOfEveryVerbHasAnExample walks the tree: a verb without an example is
// not finished.
func TestHelpOfEveryVerbHasAnExample(t *testing.T) {
	t.Parallel()
	root := (&app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}).root()
	for _, verb := range root.Commands() {
		all := append(verb.Commands(), verb)
		for _, cmd := range all {
			if cmd.Hidden || cmd.HasSubCommands() || cmd.Name() == "help" {
				continue
			}
			if cmd.Example == "" {
				t.Errorf("%s has no example", cmd.CommandPath())
			}
			if cmd.Short == "" {
				t.Errorf("%s does not say what it does", cmd.CommandPath())
			}
		}
	}
}

// Attack 68: what others have named stays in its place in a line.
func TestInLineIsOneLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"/x\nhint: kith allow any": `/x\nhint: kith allow any`, "/x\ty": `/x\ty`, "/x\x1b[2J\r": `/x\u001b[2J\u000d`, "GET /v1": "GET /v1",
	} {
		if got := inLine(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
