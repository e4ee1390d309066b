package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// condition is one that every rule of a set has, and what it may cost.
type condition struct {
	name, when string
	goal       float64 // ns beyond a decision without one; 0: none is set
	always     bool    // it holds of every request that is asked about, else of 15 in 16
}

// nativeGoal and celGoal are ns.
const (
	nativeGoal = 45
	celGoal    = 600
)

func conditions() []condition {
	return []condition{
		{name: "native: a method", when: `request.method == "GET"`, goal: nativeGoal},
		{name: "native: a network", when: `request.source_ip.within("10.0.0.0/8")`, goal: nativeGoal},
		{name: "native: a segment of the caller's path", when: `peer.path[1] == "shop"`, goal: nativeGoal},
		{name: "native: a header", when: `request.headers["x-env"] == "prod"`, goal: nativeGoal},
		{name: "native: a word of a user token's scope", when: `"write" in jwt.scope`, goal: nativeGoal},
		{name: "CEL as steps: one of two comparisons", when: `request.method == "GET" ? request.port == 8080 : request.port == 1`, goal: celGoal},
		{name: "CEL as steps: two facts compared", when: `request.headers["x-env"] != request.method`, goal: celGoal},
		{name: "CEL as steps: exists() over the caller's path", when: `peer.path.exists(segment, segment == "shop")`, goal: celGoal},
		{name: "CEL's interpreter: a fact and one of two texts compared", when: `request.headers["x-env"] == (request.method == "GET" ? "prod" : "test")`, goal: celGoal},
		{name: "CEL's interpreter making a list: a fact among facts", when: `request.method in [request.headers["x-env"], "GET"]`, always: true},
	}
}

// verified is a user's token as it is after it was checked.
type verified map[string]any

func (v verified) Claims() (map[string]any, policy.TokenState) { return v, policy.TokenValid }

// asking is one request with all that conditions read, and whether those hold of it
// that do not always.
type asking struct {
	peer    string
	method  string
	path    string
	source  netip.Addr
	headers policy.Headers
	token   policy.Token
	meets   bool
}

// askings are 1 024 requests. Conditions hold of 15 in 16, in no order that could be
// foreseen. Fields and tokens are eight of either sort, as those of a request that
// was just read are in the processor's caches.
func askings() []asking {
	random := rand.New(rand.NewPCG(1, 2))
	fields := func(environment string) (of [8]policy.Headers) {
		for i := range of {
			of[i] = policy.Fields{
				"Accept": {"application/json"}, "Content-Type": {"application/json"}, "User-Agent": {"shop/1.2"}, "Traceparent": {strconv.Itoa(i)},
				"X-Env": {strings.Clone(environment)}, "X-Request-Id": {strconv.Itoa(i)},
			}
		}
		return of
	}
	tokens := func(scope string) (of [8]policy.Token) {
		for i := range of {
			of[i] = verified{"iss": "https://issuer.example", "sub": strconv.Itoa(i), "aud": "orders", "exp": 1.8e9, "scope": strings.Clone(scope)}
		}
		return of
	}
	met, unmet, may, mayNot := fields("prod"), fields("POST"), tokens("openid read write"), tokens("openid read")
	out := make([]asking, 1024)
	for i := range out {
		at := random.IntN(8)
		a := asking{peer: "/eks/shop/src-0", method: "GET", source: netip.AddrFrom4([4]byte{10, byte(i), 2, 3}), headers: met[at], token: may[at], meets: true}
		if random.IntN(16) == 0 {
			a = asking{peer: "/eks/test/src-0", method: "POST", source: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), headers: unmet[at], token: mayNot[at]}
		}
		a.path = fmt.Sprintf("/v1/res%d/order-%d", i%2, i)
		out[i] = a
	}
	return out
}

// decider is a table of ten rules of one pair, each with the same condition or none.
type decider struct {
	table *policy.Table
	peers []policy.Peer // by request
}

func newDecider(when string, asked []asking) (decider, error) {
	rules, _ := specs(10, true)
	set, err := kithSet(rules)
	if err != nil {
		return decider{}, err
	}
	for name, r := range set.Rules {
		r.When = when
		for i, action := range r.Allow {
			r.Allow[i] = strings.Replace(action, "GET /", "GET,POST /", 1) // that methods may differ where a condition reads them
		}
		set.Rules[name] = r
	}
	from := set.Services["src-0"]
	from.Identities = []string{"/eks/shop/src-0", "/eks/test/src-0"}
	set.Services["src-0"] = from
	table, err := policy.Compile(set, "orders")
	if err != nil {
		return decider{}, err
	}
	d := decider{table: table, peers: make([]policy.Peer, len(asked))}
	for i, a := range asked {
		id, err := spiffe.NewID(set.TrustDomain, a.peer)
		if err != nil {
			return decider{}, err
		}
		d.peers[i] = table.Peer(id)
	}
	return d, nil
}

// decide is the i-th decision, with facts gathered for it whether they are read or not.
func (d *decider) decide(asked []asking, i int) policy.Effect {
	a := &asked[i]
	facts := policy.Facts{Time: time.Unix(1.77e9, 0), Source: a.source, Headers: a.headers, Token: a.token}
	return d.table.Decide(d.peers[i], policy.Request{Protocol: policy.HTTP, Method: a.method, Path: a.path, Port: 8080, Facts: &facts}).Effect
}

// check says whether each decision is the one that the condition leads to.
func (d *decider) check(c condition, asked []asking) error {
	for i, a := range asked {
		want := policy.Deny
		if a.meets || c.always {
			want = policy.Allow
		}
		if got := d.decide(asked, i); got != want {
			return fmt.Errorf("%s: %s for request %d, want %s", c.when, got, i, want)
		}
	}
	return nil
}

// slice is the CPU time of one decision, over all requests so many times.
func (d *decider) slice(asked []asking, rounds int) float64 {
	began := processCPU()
	for range rounds {
		for i := range asked {
			d.decide(asked, i)
		}
	}
	return float64((processCPU() - began).Nanoseconds()) / float64(rounds*len(asked))
}

// allocs is what one decision allocates.
func (d *decider) allocs(asked []asking) float64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	d.slice(asked, 1)
	runtime.ReadMemStats(&after)
	return math.Floor(float64(after.Mallocs-before.Mallocs) / float64(len(asked)))
}

// processCPU is selfCPU, to the nanosecond.
func processCPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// added is what one condition adds, as one process has it: ns each.
type added struct{ Extra, Without, Allocs float64 }

// conditionsRole decides with and without each condition in turn: conditions <pairs>.
func conditionsRole(_ context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("conditions PAIRS")
	}
	pairs, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	asked := askings()
	without, err := newDecider("", asked)
	if err != nil {
		return err
	}
	if err := without.check(condition{always: true}, asked); err != nil {
		return err
	}
	var all []added
	for _, c := range conditions() {
		with, err := newDecider(c.when, asked)
		if err != nil {
			return err
		}
		if err := with.check(c, asked); err != nil {
			return err
		}
		all = append(all, paired(&without, &with, asked, pairs))
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// paired takes slices of both in turn, either first as often: what one slice costs
// more than its neighbour is told from what the machine does meanwhile. Slices are
// so short that few are interrupted; where decisions leave garbage they are longer, so
// that collecting it is in many of them.
func paired(without, with *decider, asked []asking, pairs int) added {
	made, rounds := with.allocs(asked), 2
	if made > 0 {
		pairs, rounds = pairs/8, 16
	}
	var extra, plain []float64
	for i := range pairs {
		var a, b float64
		if i%2 == 0 {
			a = without.slice(asked, rounds)
			b = with.slice(asked, rounds)
		} else {
			b = with.slice(asked, rounds)
			a = without.slice(asked, rounds)
		}
		extra, plain = append(extra, b-a), append(plain, a)
	}
	return added{median(extra), median(plain), made}
}

// conditionFigures is the median of processes that start one after the other, each
// with its memory laid out anew.
func conditionFigures(ctx context.Context, b *bench) ([]figure, error) {
	processes, pairs := 9, 201
	if b.quick {
		processes, pairs = 3, 51
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	found := make([][]added, len(conditions()))
	for range processes {
		run := exec.CommandContext(ctx, self, "conditions", strconv.Itoa(pairs))
		run.Stderr = os.Stderr
		out, err := run.Output()
		if err != nil {
			return nil, fmt.Errorf("conditions: %w", err)
		}
		var all []added
		if err := json.Unmarshal(out, &all); err != nil {
			return nil, err
		}
		for i, a := range all {
			found[i] = append(found[i], a)
		}
	}
	var figures []figure
	for i, c := range conditions() {
		var extra, plain, allocs []float64
		for _, a := range found[i] {
			extra, plain, allocs = append(extra, a.Extra), append(plain, a.Without), append(allocs, a.Allocs)
		}
		figures = append(figures, upTo("condition, "+c.name, median(extra), fmt.Sprintf("ns (%s)", number(median(allocs))), c.goal, "",
			fmt.Sprintf("%d processes: %s to %s; the decision without it %s ns", processes, number(slices.Min(extra)), number(slices.Max(extra)), number(median(plain)))))
	}
	return figures, nil
}
