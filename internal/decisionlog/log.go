// Package decisionlog brings the decisions of a node's enforcement points to where
// they are kept: files of JSON lines as OCSF or OPA have them, and a collector that
// speaks OTLP. It never holds a request up, and counts what it could not keep; what
// of a request is recorded, and what is masked, is policy's and the agent's to say.
package decisionlog

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kith-id/kith/internal/pb"
)

const (
	queued     = 4096 // decisions that wait for one sink
	batch      = 256
	maxTries   = 3
	pause      = time.Second // before a batch is tried again
	drain      = 3 * time.Second
	writeLimit = 10 * time.Second
	quiet      = time.Minute // between two lines of log about one sink
)

// Config is where decisions go. The zero Config is no decision log.
type Config struct {
	// Sample says what enforcement points report for the log.
	Sample *pb.DecisionLog
	// Templates has paths recorded as templates, /v1/orders/{id}.
	Templates bool

	OCSF, OPA File
	OTLP      Collector

	Version string
	Now     func() time.Time
	Log     *slog.Logger

	drain time.Duration // what is left at the end has as long; drain unless it is set
}

// enabled says whether decisions go anywhere.
func (c Config) enabled() bool { return c.OCSF.Path != "" || c.OPA.Path != "" || c.OTLP.Endpoint != "" }

// Log is a decision log. A nil Log keeps nothing. Its methods are safe for
// concurrent use.
type Log struct {
	cfg     Config
	outlets []*outlet
	lost    prometheus.Counter // by enforcement points, before it came here

	kept, dropped *prometheus.CounterVec
}

// outlet is one sink with what waits for it.
type outlet struct {
	name  string
	sink  sink
	queue chan *entry

	kept, full, failed prometheus.Counter
}

// sink is where entries go. One goroutine calls it.
type sink interface {
	// write keeps entries in order and says how many; less than all is an error. It
	// returns when ctx ends at the latest.
	write(ctx context.Context, entries []*entry) (int, error)
	close() error
}

// New opens nothing yet: a sink that is not there when the agent starts may come
// later. Without a sink it returns nil.
func New(cfg Config) (*Log, error) {
	if !cfg.enabled() {
		return nil, nil
	}
	if cfg.Sample == nil {
		cfg.Sample = &pb.DecisionLog{}
	}
	l := &Log{
		cfg: cfg,
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kith_agent_decision_log_unreported_total", Help: "Decisions that enforcement points could not report for want of room.",
		}),
		kept: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kith_agent_decision_log_kept_total", Help: "Decisions written to a sink of the decision log.",
		}, []string{"sink"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kith_agent_decision_log_dropped_total", Help: "Decisions that a sink of the decision log did not take: its queue was full, or it failed.",
		}, []string{"sink", "cause"}),
	}
	if cfg.OCSF.Path != "" {
		l.add("ocsf", newFile(cfg.OCSF, ocsfLine))
	}
	if cfg.OPA.Path != "" {
		l.add("opa", newFile(cfg.OPA, opaLine))
	}
	if cfg.OTLP.Endpoint != "" {
		collector, err := newCollector(cfg.OTLP, cfg.Version)
		if err != nil {
			return nil, err
		}
		l.add("otlp", collector)
	}
	return l, nil
}

func (l *Log) add(name string, s sink) {
	l.outlets = append(l.outlets, &outlet{
		name: name, sink: s, queue: make(chan *entry, queued), kept: l.kept.WithLabelValues(name),
		full: l.dropped.WithLabelValues(name, "full"), failed: l.dropped.WithLabelValues(name, "failed"),
	})
}

// Sample is what enforcement points are to report for the log; nil for none.
func (l *Log) Sample() *pb.DecisionLog {
	if l == nil {
		return nil
	}
	return l.cfg.Sample
}

// Collectors are what the log measures.
func (l *Log) Collectors() []prometheus.Collector {
	if l == nil {
		return nil
	}
	return []prometheus.Collector{l.lost, l.kept, l.dropped}
}

// Lost counts decisions that an enforcement point could not report.
func (l *Log) Lost(n uint64) {
	if l != nil {
		l.lost.Add(float64(n))
	}
}

// Record hands one decision to every sink, and never blocks: where there is no
// room it is counted as dropped. Allows leave half of the room to denials. An allow
// that was not picked for the log is none of its business.
func (l *Log) Record(d *pb.Decision) {
	if l == nil || plain(d) && !d.GetLogged() {
		return
	}
	e := l.entry(d)
	for _, o := range l.outlets {
		room := cap(o.queue)
		if plain(d) {
			room /= 2
		}
		if len(o.queue) >= room {
			o.full.Inc()
			continue
		}
		select {
		case o.queue <- e:
		default:
			o.full.Inc()
		}
	}
}

// plain says that a decision is an allow like any other.
func plain(d *pb.Decision) bool {
	return d.GetEffect() == "allow" && !d.GetObserved() && d.GetShadowEffect() == ""
}

// Run brings decisions to the sinks until ctx ends, and then what still waits,
// within three seconds.
func (l *Log) Run(ctx context.Context) error {
	if l == nil {
		return nil
	}
	var all sync.WaitGroup
	for _, o := range l.outlets {
		all.Go(func() { l.serve(ctx, o) })
	}
	all.Wait()
	return nil
}

// serve brings decisions to one sink. It alone touches the sink.
func (l *Log) serve(ctx context.Context, o *outlet) {
	last, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(cmp.Or(l.cfg.drain, drain), stop) })()
	var told time.Time
	for {
		entries := o.next(ctx)
		if len(entries) == 0 {
			if err := o.sink.close(); err != nil {
				l.cfg.Log.Warn("decision log not closed", "sink", o.name, "error", err)
			}
			return
		}
		done, err := o.deliver(last, entries)
		o.kept.Add(float64(done))
		if err == nil {
			continue
		}
		o.failed.Add(float64(len(entries) - done))
		if now := l.cfg.Now(); now.Sub(told) >= quiet {
			told = now
			l.cfg.Log.Error("decisions dropped", "sink", o.name, "decisions", len(entries)-done, "error", err)
		}
	}
}

// next is what waits, at most a batch; nothing once ctx has ended and all of it is
// gone.
func (o *outlet) next(ctx context.Context) []*entry {
	var entries []*entry
	select {
	case e := <-o.queue:
		entries = append(entries, e)
	case <-ctx.Done():
	}
	for len(entries) < batch {
		select {
		case e := <-o.queue:
			entries = append(entries, e)
		default:
			return entries
		}
	}
	return entries
}

// deliver tries a few times, and says how many are kept. What waits meanwhile is
// bounded by the queue.
func (o *outlet) deliver(ctx context.Context, entries []*entry) (done int, err error) {
	for try := range maxTries {
		if try > 0 {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return done, err
			}
		}
		within, cancel := context.WithTimeout(ctx, writeLimit)
		n, failed := o.sink.write(within, entries[done:])
		cancel()
		done, err = done+n, failed
		if err == nil {
			return done, nil
		}
	}
	return done, err
}
