package main

// Terminal rules, for every verb:
//   - Answers (lists, documents, bodies, the join line) go to standard output,
//     so they can be piped; -o json and -o yaml print nothing else there.
//   - Dialogue (progress, warnings, hints, logs) goes to standard error.
//   - A failure ends with one line "error: what and why" and, where there is a
//     next thing to type, one line "hint: …". Nothing is printed after them.
//   - Exit codes: 0 done, 1 other, 2 usage or invalid input, 3 not found,
//     4 conflict, 5 denied. kith run ends with its program's code, and
//     kith curl -f with curl's 22.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/kith-id/kith/internal/fault"
)

// exitError carries an exit code and prints nothing: what there was to say has
// been said, by us or by the program that we ran.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// exitCode is the one place where error kinds become exit codes.
func exitCode(err error) int {
	var quiet exitError
	var child *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &quiet):
		return int(quiet)
	case errors.As(err, &child):
		return childCode(child)
	}
	switch fault.KindOf(err) {
	case fault.Invalid:
		return 2
	case fault.NotFound:
		return 3
	case fault.Conflict:
		return 4
	case fault.Denied:
		return 5
	default:
		return 1
	}
}

// childCode is a program's exit code as a shell would report it: 128+n for a
// program ended by signal n.
func childCode(child *exec.ExitError) int {
	if status, ok := child.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return child.ExitCode()
}

// report prints a failure, as the rules above say.
func report(w io.Writer, err error) {
	var quiet exitError
	var child *exec.ExitError
	if err == nil || errors.As(err, &quiet) || errors.As(err, &child) {
		return
	}
	fmt.Fprintf(w, "error: %s\n", oneLine(err.Error()))
	if hint := fault.HintOf(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", visible(hint))
	}
}

// visible shows the control characters of a text that others have chosen, so
// that a path or a name cannot give orders to the terminal of whoever asks why.
func visible(text string) string {
	if strings.IndexFunc(text, invisible) < 0 && utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if invisible(r) || r == utf8.RuneError {
			fmt.Fprintf(&b, "\\u%04x", r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// inLine is visible for a place in a line, of which no text makes two.
func inLine(text string) string {
	return strings.NewReplacer("\n", "\\n", "\t", "\\t").Replace(visible(text))
}

// invisible are control characters and those that turn the direction of text.
func invisible(r rune) bool {
	return unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
}

// oneLine keeps an error of several faults readable: one fault a line, the
// further ones indented under "error:".
func oneLine(text string) string {
	return strings.ReplaceAll(strings.TrimRight(visible(text), "\n"), "\n", "\n       ")
}

// usagef is a mistake on the command line.
func usagef(cmd *cobra.Command, format string, args ...any) error {
	return fault.Hint(fault.Invalidf(format, args...), "%s --help", cmd.CommandPath())
}

// format is how a list is printed.
type format string

const (
	asTable format = "table"
	asJSON  format = "json"
	asYAML  format = "yaml"
)

// String, Set and Type make format a flag that refuses unknown words.
func (f *format) String() string { return string(*f) }

// Set parses the flag's value.
func (f *format) Set(text string) error {
	switch format(text) {
	case asTable, asJSON, asYAML:
		*f = format(text)
		return nil
	}
	return errors.New("want table, json or yaml")
}

// Type is the word in --help.
func (f *format) Type() string { return "table|json|yaml" }

// outputFlag adds -o to a verb.
func outputFlag(cmd *cobra.Command) *format {
	f := asTable
	cmd.Flags().VarP(&f, "output", "o", "how to print")
	complete(cmd, "output", "table", "json", "yaml")
	return &f
}

// complete gives a flag its fixed completions.
func complete(cmd *cobra.Command, flag string, words ...string) {
	// The only possible error is a flag name that does not exist, which the
	// verb's own test would show.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// table is a list ready to print: rows for people, values for machines.
type table struct {
	head   []string
	rows   [][]string
	values any    // printed by -o json and -o yaml
	empty  string // what an empty table says, on standard error
}

// print writes the table in the wanted format.
func (a *app) print(f format, t table) error {
	switch f {
	case asJSON:
		return printJSON(a.stdout, t.values)
	case asYAML:
		return printYAML(a.stdout, t.values)
	}
	if len(t.rows) == 0 {
		fmt.Fprintln(a.stderr, t.empty)
		return nil
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(t.head, "\t"))
	for _, row := range t.rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = inLine(cell)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

func printJSON(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(value)
}

// printYAML goes by way of JSON, so that both formats have the same keys.
func printYAML(w io.Writer, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	var plain any
	if err := json.Unmarshal(text, &plain); err != nil {
		return err
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(plain); err != nil {
		return err
	}
	return enc.Close()
}

// facts prints "name  value" lines, aligned; empty values are left out.
func facts(w io.Writer, pairs ...string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(t, "%s\t%s\n", pairs[i], inLine(pairs[i+1]))
		}
	}
	return t.Flush()
}

// moment is a Unix second as people read it, "-" for none.
func moment(unix int64) string {
	if unix == 0 {
		return "-"
	}
	return time.Unix(unix, 0).UTC().Format("2006-01-02 15:04:05Z")
}

// rest is how long until a Unix second, as "58m" or "expired"; "-" for none.
func (a *app) rest(unix int64) string {
	if unix == 0 {
		return "-"
	}
	left := time.Unix(unix, 0).Sub(a.now())
	if left <= 0 {
		return "expired"
	}
	return short(left)
}

// short prints a duration with the two units that matter.
func short(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(time.Millisecond).String()
	}
}
