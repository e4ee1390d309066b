package main

import (
	"context"
	"fmt"
	"time"
)

// samples are what the ways to the backend cost, round by round.
type samples map[string]map[string][]float64 // measure -> target -> values

func (s samples) add(what, target string, value float64) {
	if s[what] == nil {
		s[what] = map[string][]float64{}
	}
	s[what][target] = append(s[what][target], value)
}

// addMemory adds both ways to count: RSS counts the pages of the program itself
// once for each process, though these share them with everything that runs it.
func (s samples) addMemory(layer, target string, m memory) {
	s.add("rss-"+layer, target, m.RSS)
	s.add("anonymous-"+layer, target, m.Anonymous)
}

func (s samples) of(what, target string) float64 { return median(s[what][target]) }

// beside is the median of how many times the other's value one's was, round by round.
func (s samples) beside(what, one, other string) float64 {
	ratios := make([]float64, 0, len(s[what][one]))
	for i, value := range s[what][one][:min(len(s[what][one]), len(s[what][other]))] {
		ratios = append(ratios, value/s[what][other][i])
	}
	return median(ratios)
}

const dataRounds = 4

// dataPlane compares the ways to the backend, in turn.
func dataPlane(ctx context.Context, b *bench) (section, error) {
	p, err := startPairs(ctx, b)
	if err != nil {
		return section{}, err
	}
	defer p.stop()
	all := samples{}
	size := int64(400 << 20)
	if b.quick {
		size /= 4
	}
	for range dataRounds {
		for _, t := range p.targets {
			cpu, rate, err := t.transfer(size)
			if err != nil {
				return section{}, fmt.Errorf("%s: transfer: %w", t.name, err)
			}
			all.add("gb", t.name, cpu)
			all.add("gb/s", t.name, rate)
			all.addMemory("l4", t.name, memoryOf(l4(t)...))
		}
		for _, t := range p.targets {
			cpu, rate, err := t.requests(ctx, 16, b.scaled(1200*time.Millisecond))
			if err != nil {
				return section{}, fmt.Errorf("%s: requests: %w", t.name, err)
			}
			all.add("request", t.name, cpu)
			all.add("request/s", t.name, rate)
			all.addMemory("l7", t.name, memoryOf(l7(t)...))
		}
		for _, t := range p.targets {
			cpu, err := t.connections(150)
			if err != nil {
				return section{}, fmt.Errorf("%s: connections: %w", t.name, err)
			}
			all.add("connection", t.name, cpu)
		}
		for _, t := range p.targets {
			took, err := t.paced(ctx, 16, 1000, b.scaled(1600*time.Millisecond))
			if err != nil {
				return section{}, fmt.Errorf("%s: 1 000 requests a second: %w", t.name, err)
			}
			all.add("p50", t.name, quantile(took, 0.5))
			all.add("p99", t.name, quantile(took, 0.99))
		}
	}
	if err := p.inProcess(ctx, b, all); err != nil {
		return section{}, fmt.Errorf("in process: %w", err)
	}
	s := dataSection(all)
	s.figures = append(s.figures, insideFigures(all)...)
	return s, nil
}

// l4 and l7 are the processes of a target that carry bytes or requests: of
// Kith's three one serves the other protocol; nginx is one program for all.
func l4(t *target) []int {
	if t.name == "kith" {
		return t.pids[1:]
	}
	return t.pids
}

func l7(t *target) []int {
	if t.name == "kith" {
		return []int{t.pids[0], t.pids[2]}
	}
	return t.pids
}

func dataSection(all samples) section {
	beside := func(what, unit string) string {
		return fmt.Sprintf("nginx pair %s, Go mTLS direct (both ends) %s, plain TCP (both ends) %s%s",
			number(all.of(what, "nginx")), number(all.of(what, "direct")), number(all.of(what, "plain")), unit)
	}
	added := func(target string) float64 { return all.of("p50", target) - all.of("p50", "plain") }
	memories := func(layer string) string {
		return fmt.Sprintf("nginx %s MiB; of it anonymous: Kith %s, nginx %s", number(all.of("rss-"+layer, "nginx")),
			number(all.of("anonymous-"+layer, "kith")), number(all.of("anonymous-"+layer, "nginx")))
	}
	s := section{
		title: "Data plane",
		intro: "A client, the caller's proxy, the callee's proxy and an application, all on this machine; TLS 1.3 between the proxies with certificates on both sides, P-256 and AES-128-GCM. " +
			"CPU is that of both proxies only; for direct connections, which have no proxy, it is that of client and application, TLS included. Kith uses X25519MLKEM768 and authorises every request; " +
			"nginx (OpenSSL 3.0) uses X25519, has its log off, and is one program for both sides. L4 is `--upstream` and `--expose` of a tcp service, L7 the HTTP proxy of `kith run` and `--expose` of an http service.",
		figures: []figure{
			upTo("CPU per GB, L4", all.of("gb", "kith"), "s", 2.0, "ghostunnel 2.61, nginx 2.21, HAProxy 2.42", beside("gb", " s")),
			times("the same beside the nginx pair", all.of("gb", "kith"), all.of("gb", "nginx"), round2(2.0/2.21), "goal over nginx's anchor"),
			plain("one connection, L4", all.of("gb/s", "kith"), "GB/s", "ghostunnel 0.40, nginx 0.41, HAProxy 0.48", beside("gb/s", "")),
			upTo("CPU per request, L7, 16 connections, 1 KiB", all.of("request", "kith"), "µs", 70, "nginx 48, HAProxy 55 (L4 goal 40)", beside("request", " µs")),
			times("the same beside the nginx pair", all.of("request", "kith"), all.of("request", "nginx"), round2(70.0/48), "goal over nginx's anchor"),
			plain("requests a second, L7, 16 connections", all.of("request/s", "kith"), "", "nginx 17 k, HAProxy 21 k, Go mTLS 79 k", beside("request/s", "")),
			upTo("CPU per new connection, L4, full handshake", all.of("connection", "kith"), "ms", 2.6, "ghostunnel 3.02 (ML-KEM), nginx 3.12, HAProxy 3.28 (X25519)", beside("connection", " ms")),
			times("the same beside the nginx pair", all.of("connection", "kith"), all.of("connection", "nginx"), round2(2.6/3.12), "goal over nginx's anchor"),
			upTo("p50 added to plain at 1 000 requests/s, L7", added("kith"), "ms", 0.30, "nginx 0.25, ghostunnel 0.32 (L4)", fmt.Sprintf("nginx pair %s, Go mTLS direct %s ms", number(added("nginx")), number(added("direct")))),
			plain("p99 at 1 000 requests/s, L7", all.of("p99", "kith"), "ms", "", beside("p99", " ms")),
			upTo("RSS of both proxies, L4, under load", all.of("rss-l4", "kith"), "MiB", 36, "ghostunnel 50–63, nginx 44–55, HAProxy 36–39", memories("l4")),
			upTo("RSS of both proxies, L7, under load", all.of("rss-l7", "kith"), "MiB", 50, "nginx 44–55", memories("l7")),
		},
	}
	bars := func(heading, what string, goal float64) group {
		return group{heading: heading, goal: goal, bars: []bar{
			{"kith, both proxies", all.of(what, "kith"), true},
			{"nginx pair, both proxies", all.of(what, "nginx"), false},
			{"Go mTLS direct, both ends", all.of(what, "direct"), false},
			{"plain TCP, both ends", all.of(what, "plain"), false},
		}}
	}
	s.charts = []chart{
		{title: "CPU per GB, L4", unit: "s", groups: []group{bars("", "gb", 2.0)}},
		{title: "CPU per request, L7, 16 connections", unit: "µs", groups: []group{bars("", "request", 70)}},
		{title: "CPU per new connection", unit: "ms", groups: []group{bars("", "connection", 2.6)}},
		{title: "p50 added to plain at 1 000 requests a second", unit: "ms", groups: []group{{goal: 0.30, bars: []bar{
			{"kith, both proxies", added("kith"), true}, {"nginx pair", added("nginx"), false}, {"Go mTLS direct", added("direct"), false},
		}}}},
	}
	return s
}
