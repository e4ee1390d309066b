package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/pb/workloadpb"
)

// The users whose streams are held open: one may hold 512.
const (
	streamUsers   = 3
	firstUser     = 61_001
	streamsInAll  = 1000
	workloadUsers = 40
)

// workloadAPI measures a real agent on a real server.
func workloadAPI(ctx context.Context, b *bench) (section, error) {
	d, err := startDomain(ctx, b, "workload")
	if err != nil {
		return section{}, err
	}
	defer d.stop()
	if _, err := d.apply(ctx, identityObject("uid", "/vms/u{workload.unix.uid}")); err != nil {
		return section{}, err
	}
	if err := d.startAgent(ctx); err != nil {
		return section{}, err
	}
	s := section{
		title: "Workload API",
		intro: "A real `kith server` and `kith agent`. A fetch is a new connection, `FetchX509SVID`, its first message, and the close, eight at a time. " +
			"1 000 streams are held by processes of three users (one user may hold 512), each stream over its own connection; the fan-out is that of a renewal of every SVID. " +
			"*Only gRPC* is a server in a process of its own that asks nobody anything and sends a message of the same size: the floor for whatever speaks this protocol with grpc-go. " +
			"Memory per stream is what a program has more with the streams than without, after it has answered the fetches: room that garbage had is theirs first, and the agent " +
			"lets 8 MiB of it lie, where *only gRPC* collects as Go programs do. So beside it stands what the program has in all. " +
			"What a stream uses is 15 KiB of stacks, which are four goroutines of grpc-go (its reader, writer, keepalive and handler, 4 KiB each, some keepalives 2), and some 9 KiB of heap: " +
			"the transport, its framer and write queue, the stream, timers and the goroutines themselves. Less than 1 KiB of that is the agent's; its streams share their message.",
	}
	steps := []func(context.Context, *domain) ([]figure, []chart, error){fetches, firstIdentities, openStreams, openConnections, liveIdentity}
	for _, step := range steps {
		figures, charts, err := step(ctx, d)
		if err != nil {
			return section{}, err
		}
		s.figures, s.charts = append(s.figures, figures...), append(s.charts, charts...)
	}
	return s, nil
}

// endpoint is a Workload API: the agent's, or the bare one beside it.
type endpoint struct {
	socket  string
	program *process
}

// both are the agent's Workload API and one that is only gRPC.
func both(ctx context.Context, d *domain) (agent, floor endpoint, stop func(), err error) {
	agent = endpoint{d.agentSocket(), d.agent}
	self, err := os.Executable()
	if err != nil {
		return agent, floor, nil, err
	}
	floor.socket = filepath.Join(d.dir, "bare.sock")
	if floor.program, err = start(ctx, d.env, d.dir, self, "bare", floor.socket); err != nil {
		return agent, floor, nil, err
	}
	stop = func() { floor.program.stop(); os.Remove(floor.socket) }
	return agent, floor, stop, floor.program.accepts("unix", floor.socket)
}

func (e endpoint) fetch(ctx context.Context) error {
	one, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, conn, err := openStream(one, e.socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = stream.Recv()
	return err
}

// fetches measures what is asked over and over: SVIDs over a new connection, and
// tokens over one that is kept. It is eight at a time, so that what is counted is
// not the falling asleep and waking up of a machine that waits.
func fetches(ctx context.Context, d *domain) ([]figure, []chart, error) {
	agent, floor, stop, err := both(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	defer stop()
	if err := d.agent.until(10*time.Second, func() error { return agent.fetch(ctx) }); err != nil { // until it has the rules
		return nil, nil, err
	}
	svid, bare, client, err := asked(agent, floor, func(e endpoint, n int) error {
		return parallelN(n, 8, func(int) error { return e.fetch(ctx) })
	}, 200)
	if err != nil {
		return nil, nil, err
	}
	token, bareToken, tokenClient, err := asked(agent, floor, func(e endpoint, n int) error { return e.fetchJWTs(ctx, n) }, 1000)
	if err != nil {
		return nil, nil, err
	}
	bars := func(title string, goal, ours, bare float64, anchors ...bar) chart {
		return chart{title: title, unit: "ms", groups: []group{{goal: goal, bars: append([]bar{{"kith", ours, true}, {"only gRPC", bare, false}}, anchors...)}}}
	}
	figures := []figure{
		upTo("X.509 fetch, new connection, agent's CPU", svid, "ms", 0.4, "SPIRE 1.2–1.6",
			fmt.Sprintf("only gRPC %s, the client (Go, gRPC) %s", number(bare), number(client))),
		plain("what the agent adds to gRPC", svid-bare, "ms", "", ""),
		upTo("JWT fetch (cached), reused connection, agent's CPU", token, "ms", 0.15, "SPIRE 0.52",
			fmt.Sprintf("only gRPC %s, the client (Go, gRPC) %s", number(bareToken), number(tokenClient))),
	}
	charts := []chart{
		bars("X.509 fetch over a new connection, agent's CPU", 0.4, svid, bare, bar{"SPIRE agent, low (anchor)", 1.2, false}, bar{"SPIRE agent, high (anchor)", 1.6, false}),
		bars("JWT fetch over a connection that is kept, agent's CPU", 0.15, token, bareToken, bar{"SPIRE agent (anchor)", 0.52, false}),
	}
	return figures, charts, nil
}

// asked is the processor time that one of n askings costs the agent, gRPC alone,
// and the client, in ms: the medians of rounds in turn.
func asked(agent, floor endpoint, ask func(e endpoint, n int) error, n int) (ours, bare, client float64, err error) {
	var cpu [2][]float64
	var clients []float64
	for round := range 21 {
		for i, e := range []endpoint{agent, floor} {
			before, own := cpuOf(e.program.pid()), selfCPU()
			if err := ask(e, n); err != nil {
				return 0, 0, 0, err
			}
			if round > 0 { // the first one finds everything cold
				cpu[i] = append(cpu[i], ms(cpuOf(e.program.pid())-before)/float64(n))
				clients = append(clients, ms(selfCPU()-own)/float64(n))
			}
		}
	}
	return median(cpu[0]), median(cpu[1]), median(clients), nil
}

// fetchJWTs asks n times for the same token over eight connections.
func (e endpoint) fetchJWTs(ctx context.Context, n int) error {
	const connections = 8
	return parallelN(connections, connections, func(int) error {
		conn, err := grpc.NewClient("unix://"+e.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		client := workloadpb.NewSpiffeWorkloadAPIClient(conn)
		ctx := metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
		for range n / connections {
			if _, err := client.FetchJWTSVID(ctx, &workloadpb.JWTSVIDRequest{Audience: []string{"billing"}}); err != nil {
				return err
			}
		}
		return nil
	})
}

// firstIdentities times the first SVID of workloads nobody has seen.
func firstIdentities(ctx context.Context, d *domain) ([]figure, []chart, error) {
	var took []float64
	for i := range workloadUsers {
		h, err := startHelper(ctx, uint32(firstUser+100+i), "first", d.agentSocket())
		if err != nil {
			return nil, nil, err
		}
		var t float64
		if err := h.hear(&t); err != nil {
			return nil, nil, err
		}
		if err := h.stop(); err != nil {
			return nil, nil, err
		}
		took = append(took, t)
	}
	return []figure{
		upTo("first identity of a workload, connect to SVID, p50", quantile(took, 0.5), "ms", 30, "SPIRE 6.9 s", ""),
		upTo("the same, the slowest of 40", quantile(took, 1), "ms", 100, "SPIRE 8.1 s", ""),
	}, nil, nil
}

// fan is what many streams cost an endpoint.
type fan struct {
	each       float64   // KiB of anonymous memory a stream
	all        float64   // MiB of the program with all streams
	spans, cpu []float64 // ms of each fan-out
}

// openStreams measures memory and fan-out of many streams, of the agent and then
// of gRPC alone.
func openStreams(ctx context.Context, d *domain) ([]figure, []chart, error) {
	agent, floor, stop, err := both(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	defer stop()
	ours, err := fanOut(ctx, agent)
	if err != nil {
		return nil, nil, err
	}
	bare, err := fanOut(ctx, floor)
	if err != nil {
		return nil, nil, err
	}
	span, floorSpan := median(ours.spans), median(bare.spans)
	figures := []figure{
		upTo("memory per open stream, anonymous", ours.each, "KiB", 20, "SPIRE 41–50", "only gRPC "+number(bare.each)),
		plain("the program with 1 000 streams, anonymous, in all", ours.all, "MiB", "", "only gRPC "+number(bare.all)),
		upTo("fan-out of a change to 1 000 streams, first to last", span, "ms", 50, "SPIRE 176–873",
			fmt.Sprintf("slowest of 9: %s; only gRPC %s", number(quantile(ours.spans, 1)), number(floorSpan))),
		plain("agent's CPU per fan-out", median(ours.cpu), "ms", "", "only gRPC "+number(median(bare.cpu))),
	}
	charts := []chart{
		{title: "Agent's memory per open stream", unit: "KiB", groups: []group{{goal: 20, bars: []bar{
			{"kith", ours.each, true}, {"only gRPC", bare.each, false}, {"SPIRE agent, low (anchor)", 41, false}, {"SPIRE agent, high (anchor)", 50, false},
		}}}},
		{title: "A change reaches 1 000 streams, first to last", unit: "ms", groups: []group{{goal: 50, bars: []bar{
			{"kith", span, true}, {"only gRPC", floorSpan, false}, {"SPIRE agent, low (anchor)", 176, false}, {"SPIRE agent, high (anchor)", 873, false},
		}}}},
	}
	return figures, charts, nil
}

// openConnections measures what grpc-go keeps of a connection over which nothing
// is asked.
func openConnections(ctx context.Context, d *domain) ([]figure, []chart, error) {
	_, floor, stop, err := both(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	defer stop()
	before := memoryOf(floor.program.pid())
	h, err := startHelper(ctx, 0, "connections", floor.socket, fmt.Sprint(streamsInAll))
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = h.stop() }()
	var open int
	if err := h.hear(&open); err != nil {
		return nil, nil, err
	}
	each := (memoryOf(floor.program.pid()).Anonymous - before.Anonymous) * 1024 / float64(open)
	return []figure{plain("memory per connection without a stream, only gRPC, anonymous", each, "KiB", "", "")}, nil, nil
}

// fanOut opens the streams and has everything sent again, nine times.
func fanOut(ctx context.Context, e endpoint) (fan, error) {
	pid := e.program.pid()
	before := memoryOf(pid)
	var helpers []*helper
	var counts []int
	defer func() {
		for _, h := range helpers {
			_ = h.stop()
		}
	}()
	for i := range streamUsers {
		n := streamsInAll / streamUsers
		if i == 0 {
			n += streamsInAll % streamUsers
		}
		h, err := startHelper(ctx, uint32(firstUser+i), "streams", e.socket, fmt.Sprint(n))
		if err != nil {
			return fan{}, err
		}
		helpers, counts = append(helpers, h), append(counts, n)
		if err := h.ask(&arrivals{}, "expect %d", n); err != nil {
			return fan{}, err
		}
	}
	open := memoryOf(pid)
	out := fan{each: (open.Anonymous - before.Anonymous) * 1024 / streamsInAll, all: open.Anonymous}
	for range 9 {
		used := cpuOf(pid)
		if err := e.program.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			return fan{}, err
		}
		first, last := time.Duration(1<<62), time.Duration(0)
		for i, h := range helpers {
			var a arrivals
			if err := h.ask(&a, "expect %d", counts[i]); err != nil {
				return fan{}, err
			}
			first, last = min(first, a.First), max(last, a.Last)
		}
		out.spans, out.cpu = append(out.spans, ms(last-first)), append(out.cpu, ms(cpuOf(pid)-used))
	}
	return out, nil
}

// liveIdentity times a new identity, and the end of one, on an open stream.
func liveIdentity(ctx context.Context, d *domain) ([]figure, []chart, error) {
	h, err := startHelper(ctx, firstUser+50, "streams", d.agentSocket(), "1")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = h.stop() }()
	if err := h.ask(&arrivals{}, "expect 1"); err != nil {
		return nil, nil, err
	}
	var added, removed []float64
	for range 30 {
		for _, remove := range []bool{false, true} {
			req := &pb.ApplyRequest{Put: []*pb.Object{identityObject("more", "/vms/more-{workload.unix.uid}")}}
			if remove {
				req = &pb.ApplyRequest{Delete: []*pb.Key{{Kind: "identity", Name: "more"}}}
			}
			began := monotonic()
			if _, err := d.admin.Apply(ctx, req); err != nil {
				return nil, nil, err
			}
			want := 2
			if remove {
				want = 1
			}
			var a arrivals
			for a.SVIDs != want {
				if err := h.ask(&a, "expect 1"); err != nil {
					return nil, nil, err
				}
			}
			if remove {
				removed = append(removed, ms(a.Last-began))
			} else {
				added = append(added, ms(a.Last-began))
			}
		}
	}
	return []figure{
		upTo("new identity on an open stream, from the operator's call, p50", quantile(added, 0.5), "ms", 15, "SPIRE 4.0 s", ""),
		upTo("the same, the slowest of 30", quantile(added, 1), "ms", 100, "SPIRE 8.7 s", ""),
		upTo("identity removed from an open stream, p50", quantile(removed, 0.5), "ms", 15, "SPIRE 3.7–5.1 s", ""),
		upTo("the same, the slowest of 30", quantile(removed, 1), "ms", 100, "SPIRE 8.1 s", ""),
	}, nil, nil
}
