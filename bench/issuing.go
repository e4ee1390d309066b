package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/spiffe"
)

// issuing compares the CA with the raw floor: the check of a request and
// x509.CreateCertificate. Both run on all cores, slice by slice in turn.
func issuing(ctx context.Context, b *bench) (section, error) {
	dir, err := b.dir("issuing")
	if err != nil {
		return section{}, err
	}
	authority, stop, err := startCA(ctx, dir)
	if err != nil {
		return section{}, err
	}
	defer stop()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return section{}, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return section{}, err
	}
	s := section{
		title: "Issuing",
		intro: "X.509-SVIDs, P-256. Kith's cost is the check of the CSR, the policy of the CA, the journal on disk and its way into the audit log, the signature, the lint and " +
			"the comparison with what was asked. The floor is the check of the CSR and `x509.CreateCertificate` with the same key type. " +
			"CPU time is that of the whole process (`getrusage`). Eight agents ask at a time, each for its next batch when it has the last one: who comes while the " +
			"journal is being synced shares the next sync. An agent that asks alone has one to itself; that is the last row but those of tokens, beside the floor and a sync alone.",
	}
	goals := map[int]float64{1: 0.55, 10: 0.42, 100: 0.40}
	anchors := map[int]string{1: "SPIRE 1.40", 10: "SPIRE 0.74", 100: "SPIRE 0.62"}
	plot := chart{title: "CPU per X.509-SVID", unit: "ms"}
	for _, batch := range []int{1, 10, 100} {
		sign, err := signer(ctx, authority, csr, batch)
		if err != nil {
			return section{}, err
		}
		floor, err := floorOf(csr, batch)
		if err != nil {
			return section{}, err
		}
		ours, raw, err := alternate(b, batch, askers, sign, floor)
		if err != nil {
			return section{}, err
		}
		s.figures = append(s.figures, upTo(fmt.Sprintf("CPU each, batch of %d", batch), ours.cpu, "ms", goals[batch], anchors[batch],
			"floor "+number(raw.cpu)))
		s.figures = append(s.figures, times(fmt.Sprintf("the same as a multiple of the floor, batch of %d", batch), ours.cpu, raw.cpu, round2(goals[batch]/0.36), "goals over the floor they were set by, 0.36 ms"))
		plot.groups = append(plot.groups, group{heading: fmt.Sprintf("batch of %d", batch), goal: goals[batch], bars: []bar{
			{"kith", ours.cpu, true}, {"raw floor", raw.cpu, false}, {"SPIRE 1.16-dev (anchor)", map[int]float64{1: 1.40, 10: 0.74, 100: 0.62}[batch], false},
		}})
		if batch == 10 {
			s.figures = append(s.figures, atLeast(fmt.Sprintf("SVIDs a second, %d cores, batch of 10", runtime.NumCPU()), ours.rate, "/s", 5000, "SPIRE 1 525", "floor "+number(raw.rate)))
		}
		s.figures = append(s.figures, perCPUSecond("X.509-SVIDs", batch, ours, raw, map[int]string{1: "SPIRE 714", 10: "SPIRE 1 351", 100: "SPIRE 1 613"}[batch], "floor "))
	}
	alone, err := issuingAlone(ctx, b, authority, csr, dir)
	if err != nil {
		return section{}, err
	}
	tokens, err := issuingJWT(ctx, b, authority)
	if err != nil {
		return section{}, err
	}
	s.figures = append(append(s.figures, alone...), tokens...)
	s.charts = []chart{plot}
	return s, nil
}

// issuingAlone is what one agent costs that asks for one SVID after the other: for
// each the journal is synced once. A write and a sync of as many bytes stand
// beside it.
func issuingAlone(ctx context.Context, b *bench, authority *ca.CA, csr []byte, dir string) ([]figure, error) {
	sign, err := signer(ctx, authority, csr, 1)
	if err != nil {
		return nil, err
	}
	floor, err := floorOf(csr, 1)
	if err != nil {
		return nil, err
	}
	file, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := file.Write(make([]byte, 1<<20)); err != nil {
		return nil, err
	}
	record, at := make([]byte, 400), int64(0)
	sync := func() error {
		at = (at + int64(len(record))) % (1 << 19)
		if _, err := file.WriteAt(record, at); err != nil {
			return err
		}
		return unix.Fdatasync(int(file.Fd()))
	}
	ours, raw, err := alternate(b, 1, 1, sign, floor)
	if err != nil {
		return nil, err
	}
	_, disk, err := alternate(b, 1, 1, floor, sync)
	if err != nil {
		return nil, err
	}
	return []figure{upTo("CPU each, one agent asking for one at a time", ours.cpu, "ms", 0.55, "SPIRE 1.40",
		fmt.Sprintf("floor %s, a sync alone %s", number(raw.cpu), number(disk.cpu)))}, nil
}

// askers is how many agents ask at a time.
const askers = 8

// issuingJWT compares JWT-SVIDs with one signature each.
func issuingJWT(ctx context.Context, b *bench, authority *ca.CA) ([]figure, error) {
	key, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	digest := make([]byte, 32)
	var out []figure
	for _, batch := range []int{1, 10, 100} {
		requests := make([]ca.JWTRequest, batch)
		for i := range requests {
			id, err := spiffe.ParseID(fmt.Sprintf("spiffe://acme.example/eks/shop/orders%d", i))
			if err != nil {
				return nil, err
			}
			requests[i] = ca.JWTRequest{ID: id, Audience: []string{"billing"}, Requester: "spiffe://acme.example/kith/node/n1", Rule: "as", Revision: 7}
		}
		sign := func() error {
			for _, result := range authority.SignJWTs(ctx, requests) {
				if result.Err != nil {
					return result.Err
				}
			}
			return nil
		}
		floor := func() error {
			return parallel(batch, func(int) error {
				_, err := key.Sign(rand.Reader, digest, crypto.SHA256)
				return err
			})
		}
		ours, raw, err := alternate(b, batch, askers, sign, floor)
		if err != nil {
			return nil, err
		}
		beside := fmt.Sprintf("one P-256 signature %s", number(raw.cpu))
		each := plain(fmt.Sprintf("JWT-SVID, CPU each, batch of %d", batch), ours.cpu, "ms", "SPIRE 1.05", beside)
		if batch == 10 {
			each = upTo(each.what, each.value, "ms", 0.15, each.anchor, beside)
		}
		out = append(out, each, perCPUSecond("JWT-SVIDs", batch, ours, raw, "SPIRE "+number(1000/1.05), "P-256 signatures "))
	}
	return out, nil
}

// perCPUSecond is how many are issued for a second of processor time, beside what
// the raw work alone would give.
func perCPUSecond(what string, batch int, ours, raw cost, anchor, floor string) figure {
	return plain(fmt.Sprintf("%s per CPU-second, batch of %d", what, batch), 1000/ours.cpu, "/CPU-s", anchor, floor+number(1000/raw.cpu))
}

func round2(v float64) float64 { return math.Round(v*100) / 100 }

// startCA makes a CA whose journal is on disk and drained, as in a server.
func startCA(ctx context.Context, dir string) (*ca.CA, func(), error) {
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		return nil, nil, err
	}
	kek, err := keys.FileKEK(filepath.Join(dir, "kek"))
	if err != nil {
		return nil, nil, err
	}
	root, err := ca.NewRoot(ca.RootConfig{TrustDomain: td, KEK: kek, Now: time.Now()})
	if err != nil {
		return nil, nil, err
	}
	record, err := audit.Open(audit.Config{Path: filepath.Join(dir, "audit.log"), Now: time.Now})
	if err != nil {
		return nil, nil, err
	}
	authority, err := ca.New(ctx, ca.Config{
		TrustDomain: td, Server: "bench", Root: root, KEK: kek, JournalPath: filepath.Join(dir, "journal"), Now: time.Now,
		Ship: ca.ShipTo(record),
	})
	if err != nil {
		return nil, nil, err
	}
	ring, err := ca.AdvanceJWTRing(nil, ca.JWTRingConfig{TrustDomain: td, KEK: kek, Now: time.Now()})
	if err != nil {
		return nil, nil, err
	}
	if err := authority.UseJWTRing(ring.Ring); err != nil {
		return nil, nil, err
	}
	life, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = authority.Run(life) })
	return authority, func() { cancel(); running.Wait(); authority.Close(); record.Close() }, nil
}

// work does one batch.
type work func() error

func signer(ctx context.Context, authority *ca.CA, csr []byte, batch int) (work, error) {
	requests := make([]ca.Request, batch)
	for i := range requests {
		id, err := spiffe.ParseID(fmt.Sprintf("spiffe://acme.example/eks/shop/orders%d", i))
		if err != nil {
			return nil, err
		}
		requests[i] = ca.Request{ID: id, Requester: "spiffe://acme.example/kith/node/n1", Rule: "as", Revision: 7}
	}
	return func() error {
		mine := append([]ca.Request(nil), requests...)
		if err := parallel(batch, func(i int) (err error) {
			mine[i].PublicKey, err = ca.ParseCSR(csr)
			return err
		}); err != nil {
			return err
		}
		for _, result := range authority.SignBatch(ctx, mine) {
			if result.Err != nil {
				return result.Err
			}
		}
		return nil
	}, nil
}

func floorOf(csr []byte, batch int) (work, error) {
	key, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	var signer crypto.Signer = key
	parent := &x509.Certificate{SubjectKeyId: []byte{1}, RawSubject: []byte{0x30, 0}}
	return func() error {
		return parallel(batch, func(int) error {
			request, err := x509.ParseCertificateRequest(csr)
			if err != nil {
				return err
			}
			if err := request.CheckSignature(); err != nil {
				return err
			}
			now := time.Now()
			template := &x509.Certificate{
				SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now, NotAfter: now.Add(time.Hour),
				URIs:     []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/eks/shop/orders"}},
				KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
				ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			}
			_, err = x509.CreateCertificate(rand.Reader, template, parent, request.PublicKey, signer)
			return err
		})
	}, nil
}

// parallel does n things on all cores.
func parallel(n int, do func(int) error) error {
	if n == 1 {
		return do(0)
	}
	var next atomic.Int64
	errs := make(chan error, n)
	var running sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		running.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					errs <- err
				}
			}
		})
	}
	running.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// cost is the price of one thing, the median of slices.
type cost struct {
	cpu  float64 // ms each
	rate float64 // each second
}

// alternate runs two kinds of work in turn, slice by slice, so that whatever
// else the machine does falls on both; so many do it at a time.
func alternate(b *bench, batch, doers int, first, second work) (cost, cost, error) {
	var cpus, rates [2][]float64
	slice := b.scaled(250 * time.Millisecond)
	for range 8 {
		for i, do := range []work{first, second} {
			var n atomic.Int64
			began, before := time.Now(), selfCPU()
			err := parallelN(doers, doers, func(int) error {
				for time.Since(began) < slice {
					if err := do(); err != nil {
						return err
					}
					n.Add(int64(batch))
				}
				return nil
			})
			if err != nil {
				return cost{}, cost{}, err
			}
			done := float64(n.Load())
			cpus[i] = append(cpus[i], ms(selfCPU()-before)/done)
			rates[i] = append(rates[i], done/time.Since(began).Seconds())
		}
	}
	return cost{median(cpus[0]), median(rates[0])}, cost{median(cpus[1]), median(rates[1])}, nil
}
