package workload

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/registry"
)

// Rules 80 and 93: a process without an identity is told so and where to ask. What
// was found out about it, and the rule that came closest, are in the log alone.
func TestRule80WhatIsFoundOutIsForTheLog(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	w := newWorld(t)
	cfg := Config{Signer: w, Trust: w.Trust, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	s := NewService(ServiceConfig{Host: w, Identities: NewIdentities(cfg), Log: slog.New(slog.NewTextHandler(&log, nil))})
	ev := &Evaluation{
		Attributes: registry.Attributes{
			"workload.unix.uid": "1001", "workload.unix.user": "web", "workload.unix.pid": "4711", "workload.systemd.unit": "web.service",
		},
		Outcomes: []registry.Outcome{
			{Rule: "pods", Result: registry.Missing, Detail: "no workload.k8s.ns"},
			{Rule: "admins", Result: registry.Unmatched, Detail: "workload.unix.uid == 0 is false"},
		},
	}
	err := s.deny(attest.Peer{PID: 4711, UID: 1001}, ev, nil)
	wantCode(t, err, codes.PermissionDenied)
	if got, want := err.Error(), "no identity issued; kith why --pid 4711 says why"; !strings.HasSuffix(got, want) {
		t.Errorf("the process is told %q, want %q at the end", got, want)
	}
	for _, word := range []string{
		"pid=4711", `found="systemd.unit=web.service unix.uid=1001 unix.user=web"`, "rule=admins", `reason="workload.unix.uid == 0 is false"`,
	} {
		if !strings.Contains(log.String(), word) {
			t.Errorf("the log lacks %s: %s", word, log.String())
		}
	}
	for _, rule := range []string{"admins", "pods"} {
		if strings.Contains(err.Error(), rule) {
			t.Errorf("the process is told of rule %s: %v", rule, err)
		}
	}
}

// Rule 80: nor does what the server says of a rule reach the process.
func TestRule80ARefusalNamesNoRule(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	w.set(func() { w.refuse = "rule admins does not match" })
	_, _, err := e.fetch(t)
	wantCode(t, err, codes.PermissionDenied)
	if !strings.Contains(err.Error(), "no identity issued") || strings.Contains(err.Error(), "admins") {
		t.Errorf("got %v, want that no identity was issued, and no rule's name", err)
	}
}

func TestFoundIsBounded(t *testing.T) {
	t.Parallel()
	attrs := registry.Attributes{"workload.unix.path": strings.Repeat("ä", maxFound)}
	if got := Found(attrs); len(got) > maxFound+3 || !strings.HasSuffix(got, "…") || strings.ContainsRune(got, '�') {
		t.Errorf("%d bytes ending in %q", len(got), got[len(got)-6:])
	}
}
