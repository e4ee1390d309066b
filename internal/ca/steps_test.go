package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"syscall"
	"testing"
	"testing/synctest"
)

// gate is a disk on which a sync takes until somebody says how it ended.
type gate struct {
	ringFile
	ends chan error
}

func (g gate) Sync() error {
	if err := <-g.ends; err != nil {
		return err
	}
	return g.ringFile.Sync()
}

// gated is a CA whose syncs end by the channel, and what it has made so far.
func gated(t *testing.T) (f *fixture, ends chan error, made *int) {
	t.Helper()
	f = newFixture(t)
	f.advanceWIT(t, nil)
	f.entries(t)
	ends, made = make(chan error), new(int)
	t.Cleanup(func() { close(ends) }) // whatever waits then goes on
	f.journal.ring.file = gate{f.journal.ring.file, ends}
	create, encode := f.create, f.encode
	f.create = func(template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
		*made++
		return create(template, parent, key, signer)
	}
	f.encode = func(key jwtKey, claims jwtClaims) (string, error) {
		*made++
		return encode(key, claims)
	}
	return f, ends, made
}

// signOne asks for one SVID of each kind; it says whether there is one, and why not.
func signOne(t *testing.T, f *fixture) map[string]func(context.Context) (bool, error) {
	return map[string]func(context.Context) (bool, error){
		"X.509": func(ctx context.Context) (bool, error) {
			result := f.SignBatch(ctx, []Request{request(t, "/a")})[0]
			return result.Chain != nil, result.Err
		},
		"JWT": func(ctx context.Context) (bool, error) {
			result := f.SignJWTs(ctx, []JWTRequest{jwtRequest(t, "/a", "billing")})[0]
			return result.SVID != nil, result.Err
		},
		"WIT": func(ctx context.Context) (bool, error) {
			result := f.SignWITs(ctx, []WITRequest{witRequest(t, "/a")})[0]
			return result.SVID != nil, result.Err
		},
	}
}

// An SVID is made while its intent is on its way to the disk, and is released when
// the disk has it: not before, and not when the disk fails or the caller goes.
func TestNothingIsReleasedBeforeItIsOnDisk(t *testing.T) {
	for _, name := range []string{"X.509", "JWT", "WIT"} {
		for _, end := range []string{"synced", "EIO", "caller gone"} {
			t.Run(name+" "+end, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { releasedAfterSync(t, name, end) })
			})
		}
	}
}

func releasedAfterSync(t *testing.T, name, end string) {
	f, ends, made := gated(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answered := false
	var got bool
	var err error
	answer := make(chan struct{})
	go func() {
		got, err = signOne(t, f)[name](ctx)
		answered = true
		close(answer)
	}()
	synctest.Wait() // nothing moves any more but by the disk
	if *made != 1 || answered {
		t.Fatalf("%d made, answered %t while the disk has nothing", *made, answered)
	}
	switch end {
	case "synced":
		ends <- nil
	case "EIO":
		ends <- syscall.EIO
	case "caller gone":
		cancel()
		ends <- nil // the entry stays, and counts as issued
	}
	<-answer
	if want := end == "synced"; got != want || (err == nil) != want {
		t.Fatalf("released %t, %v", got, err)
	}
	if end != "synced" && refusedBy(err) != refusedJournal {
		t.Errorf("refused by %s", refusedBy(err))
	}
	if end == "EIO" {
		if _, err := signOne(t, f)[name](t.Context()); refusedBy(err) != refusedJournal || *made != 1 {
			t.Errorf("after a disk that failed: %v, %d made", err, *made)
		}
		return
	}
	synctest.Wait()
	f.journal.ring.file = f.journal.ring.file.(gate).ringFile
	if entries := f.entries(t); len(entries) != 1 {
		t.Errorf("the journal has %+v", entries)
	}
}

// What failed the lint while the disk was failing too has no entry, and so no void.
func TestNoVoidWithoutAnIntent(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.JournalBytes = smallJournal })
	create := f.create
	var err error
	for n := 0; err == nil && n < 1000; n++ { // of which 64 KiB hold no more than 300
		_, err = f.Sign(t.Context(), request(t, "/a"))
	}
	f.create = func(_, parent *x509.Certificate, _ crypto.PublicKey, _ crypto.Signer) ([]byte, error) {
		return parent.Raw, nil
	}
	if _, err := f.Sign(t.Context(), request(t, "/a")); refusedBy(err) != refusedJournal {
		t.Errorf("refused by %v", err)
	}
	f.create = create
	for _, e := range f.entries(t) {
		if e.Kind == VoidEntry {
			t.Errorf("the journal has %+v", e)
		}
	}
}
