package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/url"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/keys"
)

// One run shows the price of an SVID beside the raw floor, which is the check
// of the CSR and x509.CreateCertificate:
//
//	go test ./internal/ca -run '^$' -bench 'Floor|Sign' -benchtime 2s
//
// cpu-ms/svid is processor time of the whole process; goals: 0.55, 0.42, 0.40
// for batches of 1, 10 and 100.
func BenchmarkSign(b *testing.B) {
	for _, batch := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) { benchmarkSign(b, batch) })
	}
}

func benchmarkSign(b *testing.B, batch int) {
	f := newFixture(b, func(c *Config) { c.JournalBytes = 64 << 20 })
	csr := csrOf(b, newKey(b), x509.CertificateRequest{})
	requests := make([]Request, batch)
	for i := range requests {
		requests[i] = request(b, fmt.Sprintf("/eks/shop/orders%d", i))
	}
	signed := 0
	measure(b, batch, func() {
		inParallel(batch, func(i int) {
			key, err := ParseCSR(csr)
			if err != nil {
				b.Error(err)
			}
			requests[i].PublicKey = key
		})
		for _, result := range f.SignBatch(b.Context(), requests) {
			if result.Err != nil {
				b.Fatal(result.Err)
			}
		}
		if signed += batch; signed >= 50_000 {
			signed = 0
			f.entries(b)
		}
	})
}

func BenchmarkFloor(b *testing.B) {
	for _, batch := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) { benchmarkFloor(b, batch) })
	}
}

func benchmarkFloor(b *testing.B, batch int) {
	csr := csrOf(b, newKey(b), x509.CertificateRequest{})
	key, err := keys.Generate()
	if err != nil {
		b.Fatal(err)
	}
	parent := &x509.Certificate{SubjectKeyId: []byte{1}, RawSubject: []byte{0x30, 0}}
	measure(b, batch, func() {
		inParallel(batch, func(int) {
			request, err := x509.ParseCertificateRequest(csr)
			if err != nil {
				b.Error(err)
				return
			}
			if err := request.CheckSignature(); err != nil {
				b.Error(err)
			}
			template := &x509.Certificate{
				SerialNumber: big.NewInt(1), NotBefore: epoch, NotAfter: epoch.Add(time.Hour),
				URIs:     []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/eks/shop/orders"}},
				KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: leafUsages(), BasicConstraintsValid: true,
			}
			if _, err := x509.CreateCertificate(rand.Reader, template, parent, request.PublicKey, key); err != nil {
				b.Error(err)
			}
		})
	})
}

func measure(b *testing.B, svids int, f func()) {
	before := processorTime(b)
	n := 0
	for b.Loop() {
		f()
		n += svids
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(time.Millisecond)/float64(n), "cpu-ms/svid")
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "svid/s")
}

func processorTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkSignJWT is the same for JWT-SVIDs; the goal is 0.15 cpu-ms, and the
// floor one P-256 signature.
func BenchmarkSignJWT(b *testing.B) {
	for _, batch := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			f := newFixture(b, func(c *Config) { c.JournalBytes = 64 << 20 })
			f.advance(b, nil)
			requests := make([]JWTRequest, batch)
			for i := range requests {
				requests[i] = jwtRequest(b, fmt.Sprintf("/eks/shop/orders%d", i), "billing")
			}
			signed := 0
			measure(b, batch, func() {
				for _, result := range f.SignJWTs(b.Context(), requests) {
					if result.Err != nil {
						b.Fatal(result.Err)
					}
				}
				if signed += batch; signed >= 50_000 {
					signed = 0
					f.entries(b)
				}
			})
		})
	}
}

func BenchmarkFloorJWT(b *testing.B) {
	key, err := keys.Generate()
	if err != nil {
		b.Fatal(err)
	}
	digest := make([]byte, 32)
	measure(b, 1, func() {
		if _, err := key.Sign(rand.Reader, digest, crypto.SHA256); err != nil {
			b.Fatal(err)
		}
	})
}
