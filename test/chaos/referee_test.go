//go:build chaos

package chaos

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// maxViolations is how many violations are kept: the first ones tell.
const maxViolations = 20

// referee sees every answer of the load and knows what was allowed when, and
// what was disturbed when. It judges each answer for itself:
//
//   - what nothing allows never passes,
//   - what a rule allowed passes at no time after the change that took the rule
//     away was acknowledged by every node,
//   - what is allowed always passes, unless something on its way was disturbed.
type referee struct {
	t *testing.T

	mu         sync.Mutex
	partial    []byte               // guarded by mu, as is all below
	allowed    map[string][]window  // of wavering requests, by service
	disturbed  map[string][]window  // by service
	tallies    map[string]*tally    // by service
	lastFailed map[string]time.Time // a permitted request, by service: its end
	passedRow  map[string]int       // permitted requests that passed since
	lastPassed time.Time
	violations []string
	violated   chan struct{} // closed at the first violation
}

// window is a time that has begun and may have ended.
type window struct{ from, to time.Time }

// overlaps reports whether the window shares a moment with from..to.
func (w window) overlaps(from, to time.Time) bool {
	return !w.from.After(to) && (w.to.IsZero() || !w.to.Before(from))
}

// tally counts the answers of one service.
type tally struct{ passed, denied, failed, excused, held int }

func newReferee(t *testing.T) *referee {
	return &referee{
		t: t, allowed: make(map[string][]window), disturbed: make(map[string][]window),
		tallies: make(map[string]*tally), lastFailed: make(map[string]time.Time), passedRow: make(map[string]int),
		violated: make(chan struct{}),
	}
}

// Write takes the load's output. A line that a kill has cut short is dropped.
func (r *referee) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.partial = append(r.partial, p...)
	for {
		end := bytes.IndexByte(r.partial, '\n')
		if end < 0 {
			return len(p), nil
		}
		var a answer
		if json.Unmarshal(r.partial[:end], &a) == nil && a.Service != "" {
			r.judge(a)
		}
		r.partial = r.partial[end+1:]
	}
}

// judge takes one answer. The caller holds mu.
func (r *referee) judge(a answer) {
	c := r.tallies[a.Service]
	if c == nil {
		c = &tally{}
		r.tallies[a.Service] = c
	}
	overlaps := func(w window) bool { return w.overlaps(a.Begun, a.Ended) }
	if a.Held && a.Passed {
		c.held++
	}
	switch {
	case a.Passed && a.Hope == isDenied:
		r.violate("a forbidden request to %s was answered at %s", a.Service, stamp(a.Ended))
	case a.Passed && a.Hope == wavers && !slices.ContainsFunc(r.allowed[a.Service], overlaps):
		r.violate("a request to %s from %s to %s passed (on a connection held: %v), which no rule allowed then any more; allowed last: %s",
			a.Service, stamp(a.Begun), stamp(a.Ended), a.Held, lastOf(r.allowed[a.Service]))
	case a.Passed:
		c.passed++
		r.passedRow[a.Service]++
		r.lastPassed = a.Ended
	case a.Hope != passes:
		c.denied++
	case slices.ContainsFunc(r.disturbed[a.Service], overlaps):
		c.excused++
		r.lastFailed[a.Service], r.passedRow[a.Service] = a.Ended, 0
	default:
		c.failed++
		r.lastFailed[a.Service], r.passedRow[a.Service] = a.Ended, 0
		r.violate("a permitted request to %s from %s to %s failed (on a connection held: %v), and nothing on its way was disturbed: %s",
			a.Service, stamp(a.Begun), stamp(a.Ended), a.Held, a.Why)
	}
}

func lastOf(windows []window) string {
	if len(windows) == 0 {
		return "never"
	}
	last := windows[len(windows)-1]
	return stamp(last.from) + " to " + stamp(last.to)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "now"
	}
	return t.Format("15:04:05.000")
}

// violate records a broken promise. The caller holds mu.
func (r *referee) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if len(r.violations) == 0 {
		close(r.violated)
	}
	if len(r.violations) < maxViolations {
		r.violations = append(r.violations, text)
		r.t.Logf("%s VIOLATION: %s", stamp(time.Now()), text)
	}
}

// report is violate for others.
func (r *referee) report(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violate(format, args...)
}

// open says that wavering requests to a service may pass from now on.
func (r *referee) open(service string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.allowed[service]
	if n := len(list); n == 0 || !list[n-1].to.IsZero() {
		r.allowed[service] = append(list, window{from: time.Now()})
	}
}

// close says that they may not any more.
func (r *referee) close(service string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	endLast(r.allowed[service])
}

// disturb says that permitted requests to these services may fail from now on,
// until the returned function is called.
func (r *referee) disturb(services ...string) (over func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	index := make(map[string]int)
	for _, s := range services {
		index[s] = len(r.disturbed[s])
		r.disturbed[s] = append(r.disturbed[s], window{from: time.Now()})
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for s, i := range index {
			r.disturbed[s][i].to = time.Now()
		}
	}
}

func endLast(list []window) {
	if n := len(list); n > 0 && list[n-1].to.IsZero() {
		list[n-1].to = time.Now()
	}
}

// restart forgets how many requests in a row have passed.
func (r *referee) restart(services ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range services {
		r.passedRow[s] = 0
	}
}

// settled is nil when as many permitted requests to each service have passed in
// a row since restart.
func (r *referee) settled(row int, services ...string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range services {
		if r.passedRow[s] < row {
			return fmt.Errorf("%d permitted requests to %s have passed in a row, the last failure was at %s", r.passedRow[s], s, stamp(r.lastFailed[s]))
		}
	}
	return nil
}

// verdict is the violations, in words.
func (r *referee) verdict() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.violations, "\n")
}

// summary is the counts of all services.
func (r *referee) summary() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for service, c := range r.tallies {
		fmt.Fprintf(&b, "%s: %d passed (%d on held connections), %d denied, %d failed while disturbed, %d for no reason\n",
			service, c.passed, c.held, c.denied, c.excused, c.failed)
	}
	return b.String()
}

// count is the sum of a count over all services.
func (r *referee) count(of func(tally) int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := 0
	for _, c := range r.tallies {
		sum += of(*c)
	}
	return sum
}
