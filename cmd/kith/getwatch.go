package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/run"
)

const (
	hookLimit    = time.Minute // for one run of --exec
	hookMinRetry = time.Second
	hookMaxRetry = 30 * time.Second
)

// dirFlags say where and how files of an identity are kept.
type dirFlags struct {
	dir, mode, owner string
	pkcs12           string // file with the password
	watch            bool
	hook             hook
}

func (f *dirFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.dir, "dir", "", "write PEM files into this directory")
	flags.StringVar(&f.mode, "mode", "", "mode of the files with the key (default 0600)")
	flags.StringVar(&f.owner, "owner", "", "USER[:GROUP] the files belong to; needs root")
	flags.StringVar(&f.pkcs12, "pkcs12", "", "write PKCS #12 for Java as well, under the password in this file")
	flags.BoolVar(&f.watch, "watch", false, "stay, and write them again at each renewal")
	flags.StringVar(&f.hook.command, "exec", "", "with --watch: shell command to run once new files are in place")
	flags.StringVar(&f.hook.signal, "signal", "", "with --watch: signal to send once new files are in place, as in HUP")
	flags.StringVar(&f.hook.pidFile, "pid-file", "", "with --signal: file with the number of the process")
}

// check refuses flags that mean nothing together.
func (f *dirFlags) check(cmd *cobra.Command) error {
	hooked := f.hook != hook{}
	switch {
	case f.dir == "" && (f.watch || f.mode != "" || f.owner != "" || f.pkcs12 != "" || hooked):
		return usagef(cmd, "--dir is missing; want: %s", cmd.UseLine())
	case hooked && !f.watch:
		return usagef(cmd, "--exec and --signal are for --watch")
	case (f.hook.signal == "") != (f.hook.pidFile == ""):
		return usagef(cmd, "--signal and --pid-file go together")
	case f.hook.signal != "" && f.hook.number() == 0:
		return fault.Hint(fault.Invalidf("there is no signal %q", f.hook.signal), "HUP, USR1, USR2, TERM, …")
	}
	return nil
}

// open reads what the flags say of the directory.
func (f *dirFlags) open() (identityDir, error) {
	d, err := newIdentityDir(f.dir, f.mode, f.owner)
	if err == nil && f.pkcs12 != "" {
		d.password, err = readPassword(f.pkcs12)
	}
	return d, err
}

// forget removes what was watched of a workload that has ended while nobody did.
func (f *dirFlags) forget(why error) error {
	if !f.watch || !errors.As(why, new(goneError)) {
		return nil
	}
	d, err := newIdentityDir(f.dir, f.mode, f.owner)
	if err != nil {
		return err
	}
	return d.clear()
}

// hook is how a program learns that its files are new.
type hook struct{ command, signal, pidFile string }

func (h hook) number() syscall.Signal {
	return unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(h.signal), "SIG"))
}

// run tells the program. It fails when the program could not be told.
func (h hook) run(ctx context.Context, a *app) error {
	if h.command != "" {
		ctx, cancel := context.WithTimeout(ctx, hookLimit)
		defer cancel()
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", h.command)
		cmd.Stdout, cmd.Stderr = a.stderr, a.stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) } // what it has started as well
		cmd.WaitDelay = time.Second
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("--exec %s: %w", h.command, err)
		}
	}
	if h.signal == "" {
		return nil
	}
	return tell(h.pidFile, h.number())
}

// watchFiles keeps the files of an identity current until ctx ends. A hook that
// fails is tried again: a program that was not told goes on with what expires. Of a
// workload that we act for, and may no more, nothing stays.
func (a *app) watchFiles(ctx context.Context, w identitySource, f *dirFlags, log *slog.Logger) error {
	dir, err := f.open()
	if err != nil {
		return err
	}
	notify := run.NewNotifier(os.Getenv)
	defer notify.Stopping(log)
	ready, last := false, ""
	for {
		changed := w.Renewed() // before reading, so that no renewal is missed
		if gone := ended(w); gone != nil && ready {
			return errors.Join(gone, dir.clear())
		}
		written, err := a.renewFiles(w, dir, &last)
		if err != nil && !ready {
			return err
		}
		if err != nil { // the old files stay, and the next renewal is a new chance
			log.Error("files not written", "dir", f.dir, "error", err)
		}
		if written {
			log.Info("files written", "dir", f.dir, "spiffe_id", w.ID().String())
		}
		if !ready {
			ready = true // the first files are there: who reads them may start
			notify.Ready(log)
		}
		if written {
			f.hook.until(ctx, a, log, changed)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// ended is why there will be no identity any more, nil while there may.
func ended(w identitySource) error {
	brokered, ok := w.(*kith.Brokered)
	if !ok {
		return nil
	}
	select {
	case <-brokered.Done():
		return brokered.Err()
	default:
		return nil
	}
}

// until runs the hook until it works, there are newer files, or ctx ends.
func (h hook) until(ctx context.Context, a *app, log *slog.Logger, newer <-chan struct{}) {
	for pause := hookMinRetry; ; pause = min(2*pause, hookMaxRetry) {
		err := h.run(ctx, a)
		if err == nil || ctx.Err() != nil {
			return
		}
		log.Error("program not told of its new files", "error", err, "again_in", pause)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-newer:
		case <-timer.C:
			continue
		}
		timer.Stop()
		return
	}
}

// renewFiles writes the identity of now, unless it is what was written last.
func (a *app) renewFiles(w identitySource, dir identityDir, last *string) (written bool, err error) {
	svid, bundle, err := heldBy(w)
	if err != nil {
		return false, err
	}
	now := string(chainPEM(svid)) + string(bundlePEM(bundle))
	if now == *last {
		return false, nil
	}
	files, err := dir.files(svid, bundle)
	if err != nil {
		return false, err
	}
	if err := dir.write(files); err != nil {
		return false, err
	}
	*last = now
	return true, nil
}
