package store

import (
	"context"
	"errors"
	"expvar"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// MemberVerb is the command line, below the program's name, that must lead to
// RunMember.
func MemberVerb() []string { return []string{"server", "store-member"} }

// The layout of a store directory.
const (
	dataName   = "etcd" // etcd's own files
	runName    = "run"  // 0700; holds the socket, and is the child's working directory
	socketName = "store.sock"
	lockName   = "lock"
)

// The member's tuning. A trust domain has few, small writes: short segments
// and snapshots keep an idle member small on disk and in memory.
const (
	defaultQuota     = 2 << 30
	segmentBytes     = 8 << 20
	snapshotCount    = 250
	catchUpEntries   = 100
	keptRevisions    = 10_000 // for watches that resume
	maxRequestBytes  = registry.MaxTxnBytes + 1<<20
	maxEngineOps     = 2*registry.MaxTxnOps + 2
	memberTick       = 2000 // ms; a lone member has nobody to keep in step with, and is told to lead
	memberElection   = 5 * memberTick
	memberBatch      = 500 * time.Millisecond // until the database has what the log has
	memberStartGC    = 200                    // while it starts, which makes little but what stays
	memberGCPercent  = 50                     // when it has settled
	memberProcessors = 1                      // when it has settled
	memberSettle     = 3 * time.Second        // until then the server reads all there is, which all cores are for
	memberStopLimit  = 5 * time.Second
	memberReadyLimit = 60 * time.Second
	electAgain       = 10 * time.Millisecond
)

// The words a member says on its standard output, one line each.
const (
	saidReady  = "ready"
	saidLocked = "locked " // followed by who holds the directory
	saidFailed = "failed " // followed by the error
)

// RunMember is the child process: one etcd member on a unix socket, for the
// server that started it. It ends when its standard input closes, and says what
// happens to it on its standard output and, as JSON lines, standard error. It
// writes only below --dir and opens no TCP port.
//
// Signals and ctx's end are ignored: systemd and terminals signal the whole
// family at once, and the member must outlive the server's last write.
func RunMember(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("store-member", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	dir := flags.String("dir", "", "store directory")
	quota := flags.Int64("quota", defaultQuota, "size limit of the database in bytes")
	if err := flags.Parse(args); err != nil {
		return fault.Invalidf("store member: %w", err)
	}
	if *dir == "" || flags.NArg() > 0 {
		return fault.Hint(fault.Invalidf("store member: want --dir and nothing else"), "kith server starts it by itself")
	}
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	go func() { // ends with the process: a read of stdin cannot be interrupted
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	err := serveMember(ctx, *dir, *quota)
	var locked *lockedError
	switch {
	case errors.As(err, &locked):
		fmt.Println(saidLocked + locked.holder)
	case err != nil:
		fmt.Println(saidFailed + err.Error())
	}
	return err
}

// serveMember locks the directory, runs etcd until ctx ends, and stops it.
func serveMember(ctx context.Context, dir string, quota int64) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("store member: %w", err)
	}
	release, err := lockDir(ctx, dir)
	if err != nil {
		return err
	}
	defer release()
	// Sockets are named relative to the working directory: etcd takes a peer
	// socket's name from the host part of a URL, which cannot hold a slash.
	if err := os.Chdir(filepath.Join(dir, runName)); err != nil {
		return fmt.Errorf("store member: %w", err)
	}
	syscall.Umask(0o077)
	debug.SetGCPercent(memberStartGC)
	wal.SegmentSizeBytes = segmentBytes
	config, err := memberConfig(filepath.Join(dir, dataName), quota)
	if err != nil {
		return err
	}
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return fmt.Errorf("start store member: %w", err)
	}
	defer stopMember(etcd)
	if err := awaitMember(ctx, etcd); err != nil || ctx.Err() != nil {
		return err
	}
	fmt.Println(saidReady)
	defer time.AfterFunc(memberSettle, settle).Stop()
	select {
	case <-ctx.Done():
		return nil
	case err := <-etcd.Err():
		return fmt.Errorf("store member: %w", err)
	}
}

// settle is for a member that has started and was read as a whole: from now on
// it has small writes to do, and etcd's clocks, more than twenty of which ring each
// second. For each, a second processor would be woken to look for work too.
func settle() {
	debug.SetGCPercent(memberGCPercent)
	runtime.GOMAXPROCS(memberProcessors)
}

// awaitMember returns when the member serves, or ctx has ended. A lone member
// would wait for some ticks to hear of a leader; it is told at once to be the
// leader itself, as raft does when it hands leadership over, until it is.
func awaitMember(ctx context.Context, etcd *embed.Etcd) error {
	limit := time.NewTimer(memberReadyLimit)
	defer limit.Stop()
	again := time.NewTicker(electAgain)
	defer again.Stop()
	self := uint64(etcd.Server.MemberID())
	for {
		if etcd.Server.Leader() == 0 && logIsRead() {
			step, cancel := context.WithTimeout(ctx, electAgain)
			_ = etcd.Server.Process(step, &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), From: &self, To: &self}) // else its clock does it
			cancel()
		}
		select {
		case <-etcd.Server.ReadyNotify():
			return nil
		case err := <-etcd.Err():
			return fmt.Errorf("store member: %w", err)
		case <-limit.C:
			return fmt.Errorf("store member: not ready after %s", memberReadyLimit)
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
	}
}

// logIsRead reports that raft has seen every committed entry of its log applied.
// Until then a member must not be told to lead: raft looks through the entries
// it takes for unapplied, etcd drops those it has applied, and where the two
// meet raft panics. Only etcd's published variable tells how far raft is.
func logIsRead() bool {
	published, ok := expvar.Get("raft.status").(expvar.Func)
	if !ok {
		return false
	}
	status, ok := published().(raft.Status)
	return ok && status.Applied >= status.GetCommit()
}

// stopMember closes etcd, but not for longer than the limit: what is
// acknowledged is in the log already, and the server is waiting.
func stopMember(etcd *embed.Etcd) {
	done := make(chan struct{})
	go func() {
		snapshotLast(etcd)
		etcd.Close()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(memberStopLimit):
	}
}

// snapshotLast has the next start begin here: a member reads again all its log
// since its last snapshot, and each change there may be of megabytes. Etcd makes
// one after so many entries of its log, so it is asked for its alarms that often,
// all at once: that goes through the log, in a few writes, and changes nothing. A
// member that is killed starts as well, only later.
func snapshotLast(etcd *embed.Etcd) {
	if etcd.Server.Leader() != etcd.Server.MemberID() {
		return // it never served
	}
	ctx, cancel := context.WithTimeout(context.Background(), memberStopLimit/2)
	defer cancel()
	var asking sync.WaitGroup
	for range snapshotCount + 1 {
		asking.Go(func() { _, _ = etcd.Server.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET}) })
	}
	asking.Wait()
}

func memberConfig(dataDir string, quota int64) (*embed.Config, error) {
	log, err := memberLogger()
	if err != nil {
		return nil, fmt.Errorf("store member: %w", err)
	}
	client := url.URL{Scheme: "unix", Host: socketName}
	peer := url.URL{Scheme: "unix", Host: "peer.sock"}
	c := embed.NewConfig()
	c.Name = "kith"
	c.Dir = dataDir
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	c.LogLevel = "warn"
	c.ListenClientUrls = []url.URL{client}
	c.AdvertiseClientUrls = []url.URL{client}
	c.ListenPeerUrls = nil // alone; nobody may join over a socket
	c.AdvertisePeerUrls = []url.URL{peer}
	c.InitialCluster = "kith=" + peer.String()
	c.EnableGRPCGateway = false
	c.TickMs, c.ElectionMs = memberTick, memberElection
	c.BackendBatchInterval = memberBatch
	c.SnapshotCount = snapshotCount
	c.SnapshotCatchUpEntries = catchUpEntries
	c.MaxTxnOps = maxEngineOps
	c.MaxRequestBytes = maxRequestBytes
	c.QuotaBackendBytes = quota
	c.AutoCompactionMode = embed.CompactorModeRevision
	c.AutoCompactionRetention = strconv.Itoa(keptRevisions)
	c.WarningApplyDuration = time.Second
	c.WarningUnaryRequestDuration = 2 * time.Second
	return c, nil
}

// memberLogger writes warnings and worse as JSON lines to standard error.
func memberLogger() (*zap.Logger, error) {
	c := zap.NewProductionConfig()
	c.Level = zap.NewAtomicLevelAt(zapcore.WarnLevel)
	c.OutputPaths = []string{"stderr"}
	c.ErrorOutputPaths = []string{"stderr"}
	c.DisableStacktrace = true
	c.DisableCaller = true
	return c.Build()
}
