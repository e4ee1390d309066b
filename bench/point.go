package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// point is the enforcement point of a simulated agent: it holds the policy of the
// services that are served there, compiles those that a change alters, swaps, and
// notes when. Without a book, which is the floor's, a change is only noted.
type point struct {
	clock  clock
	book   *policy.Book                             // owned by the goroutine that receives
	tables map[string]*atomic.Pointer[policy.Table] // by service served here
	since  atomic.Int64                             // on clock: the last change is in force since then
}

func newPoint(c clock, services []string) *point {
	p := &point{clock: c, tables: make(map[string]*atomic.Pointer[policy.Table])}
	for _, name := range services {
		p.tables[name] = new(atomic.Pointer[policy.Table])
	}
	return p
}

// apply puts in force what came, if it is of the policy, and gives its revision.
func (p *point) apply(in *pb.SyncResponse) (revision uint64, err error) {
	if state := in.GetState(); state != nil {
		return state.GetRevision(), p.state(state)
	}
	raw := in.GetDelta().GetDelta()
	if raw == nil {
		return 0, nil
	}
	delta := &pb.Delta{}
	if err := proto.Unmarshal(raw, delta); err != nil {
		return 0, err
	}
	return delta.GetRevision(), p.delta(delta)
}

// state takes all there is.
func (p *point) state(in *pb.State) error {
	td, err := spiffe.ParseTrustDomain(in.GetTrustDomain())
	if err != nil {
		return err
	}
	p.book = policy.NewBook(td)
	for _, o := range in.GetObjects() {
		if err := put(p.book, o); err != nil {
			return err
		}
	}
	for name := range p.tables {
		if err := p.swap(name); err != nil {
			return err
		}
	}
	return nil
}

// delta takes a change of rules, and has it in force when it returns.
func (p *point) delta(in *pb.Delta) error {
	concerned := p.book == nil
	if p.book != nil {
		p.book = p.book.Fork()
		for _, o := range in.GetPut() {
			if err := put(p.book, o); err != nil {
				return err
			}
		}
		for _, o := range in.GetPut() {
			if name := o.GetRule().GetTo(); p.tables[name] != nil {
				concerned = true
				if err := p.swap(name); err != nil {
					return err
				}
			}
		}
	}
	if concerned {
		p.since.Store(int64(p.clock.now()))
	}
	return nil
}

// swap compiles a service and has the next request decided by that.
func (p *point) swap(service string) error {
	table, err := p.book.Compile(service)
	if err != nil {
		return fmt.Errorf("compile %s: %w", service, err)
	}
	p.tables[service].Store(table)
	return nil
}

func put(book *policy.Book, o *pb.Object) error {
	switch k := o.GetKind().(type) {
	case *pb.Object_Service:
		s, err := policy.ServiceFromPB(k.Service)
		if err != nil {
			return err
		}
		book.PutService(s)
	case *pb.Object_Rule:
		r, err := policy.RuleFromPB(k.Rule)
		if err != nil {
			return err
		}
		book.PutRule(r)
	}
	return nil
}

// tellSince says how many points there are, and then for each number that it reads
// since when so many of them, the first ones, have the last change in force.
func tellSince(points []*point) error {
	say := json.NewEncoder(os.Stdout)
	if err := say.Encode(len(points)); err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		n, err := strconv.Atoi(lines.Text())
		if err != nil || n < 0 || n > len(points) {
			return fmt.Errorf("how many of %d agents, got %q", len(points), lines.Text())
		}
		since := make([]time.Duration, n)
		for i := range since {
			since[i] = time.Duration(points[i].since.Load())
		}
		if err := say.Encode(since); err != nil {
			return err
		}
	}
	return nil
}

// clock is CLOCK_MONOTONIC, which all processes of this machine share, read as
// the runtime reads it: without a system call.
type clock struct {
	at      time.Time
	reading time.Duration // of the shared clock at that moment
}

// newClock takes both readings as close together as it can: what lies between them
// is the error, which is below a microsecond.
func newClock() clock {
	var c clock
	least := time.Duration(1<<63 - 1)
	for range 100 {
		before := time.Now()
		reading := monotonic()
		if between := time.Since(before); between < least {
			least, c = between, clock{before, reading}
		}
	}
	return c
}

// now is the time on the shared clock.
func (c clock) now() time.Duration { return c.reading + time.Since(c.at) }
