package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Config is how an etcd store is opened. Only Dir is required.
type Config struct {
	Dir       string                           // directory of the store, made 0700 if absent
	Binary    string                           // program whose MemberVerb is RunMember; default: this one
	Log       *slog.Logger                     // default: none
	Now       func() time.Time                 // default: time.Now
	Quota     int64                            // size limit of the database; default 2 GiB
	MinFree   uint64                           // free disk below which commits are refused; default 64 MiB
	FreeSpace func(dir string) (uint64, error) // default: statfs
}

// Etcd is a registry.Store in an etcd member that runs as a child process.
type Etcd struct {
	cfg      Config
	endpoint string
	health   *healthBox
	child    *child
	client   *clientv3.Client
	life     context.Context // ends with Close; watches and probes live in it
	end      context.CancelFunc
	running  sync.WaitGroup
	writing  chan struct{} // holds one token: whoever has it commits
	last     revision      // owned by the holder of the writing token
	closing  sync.Once
}

// The limits of calls whose context has none, and how long a call waits for a
// member that is being started again.
const (
	readLimit   = 5 * time.Second
	commitLimit = 10 * time.Second
	patience    = 3 * time.Second
)

// OpenEtcd starts the member and returns when it serves. A directory that
// another server uses is a Conflict error that names it, after at most 5 s.
func OpenEtcd(ctx context.Context, cfg Config) (*Etcd, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	socket, err := prepareDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	e := &Etcd{
		cfg: cfg, endpoint: "unix://" + socket, writing: make(chan struct{}, 1),
		health: newHealthBox(cfg.Now, cfg.Log),
	}
	e.writing <- struct{}{}
	if e.child, err = startChild(ctx, cfg, e.health); err != nil {
		return nil, err
	}
	e.life, e.end = context.WithCancel(context.Background())
	if e.client, err = newClient(e.life, e.endpoint); err != nil {
		e.end()
		e.child.close()
		return nil, err
	}
	first, cancel := context.WithTimeout(ctx, memberReadyLimit) // a disk that is busy now may be so since the start
	defer cancel()
	if _, err := e.current(first); err != nil {
		e.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	e.health.refuse(e.whyDiskFull())
	e.running.Go(func() { e.look(e.life) })
	return e, nil
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, fault.Invalidf("open store: no directory")
	}
	var err error
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return c, fmt.Errorf("open store: %w", err)
	}
	if c.Binary == "" {
		if c.Binary, err = os.Executable(); err != nil {
			return c, fmt.Errorf("open store: %w", err)
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Quota <= 0 {
		c.Quota = defaultQuota
	}
	if c.MinFree == 0 {
		c.MinFree = defaultFree
	}
	if c.FreeSpace == nil {
		c.FreeSpace = freeSpace
	}
	return c, nil
}

// prepareDir makes the store's directories and returns the socket's path.
// Whoever can enter the run directory can read and write everything, so it
// must be ours and 0700.
func prepareDir(dir string) (string, error) {
	socket := filepath.Join(dir, runName, socketName)
	if len(socket) > maxSocketPath {
		return "", fault.Hint(fault.Invalidf("open store: socket path %s has %d bytes; the system allows %d", socket, len(socket), maxSocketPath),
			"use a state directory with a shorter path (KITH_STATE_DIR)")
	}
	for _, sub := range []string{"", dataName, runName} {
		path := filepath.Join(dir, sub)
		if err := os.MkdirAll(path, 0o700); err != nil {
			return "", openError(path, err)
		}
		if sub == "" {
			continue
		}
		info, err := os.Lstat(path)
		if err != nil {
			return "", openError(path, err)
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		if !info.IsDir() || info.Mode().Perm() != 0o700 || ok && int(owner.Uid) != os.Geteuid() {
			return "", fault.Hint(fault.Invalidf("open store: %s is not a directory of ours with mode 0700", path),
				"chown %d %s && chmod 0700 %s", os.Geteuid(), path, path)
		}
	}
	return socket, nil
}

func openError(path string, err error) error {
	wrapped := fmt.Errorf("open store: %w", err)
	if errors.Is(err, fs.ErrPermission) {
		return fault.Hint(fault.Wrap(fault.Denied, wrapped), "run as the owner of %s, or set KITH_STATE_DIR", filepath.Dir(path))
	}
	return wrapped
}

// newClient dials the member. It reconnects fast, since the member is a few
// milliseconds away and back in less than a second.
func newClient(ctx context.Context, endpoint string, more ...grpc.DialOption) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{
		Context:            ctx,
		Endpoints:          []string{endpoint},
		Logger:             zap.NewNop(),
		MaxCallSendMsgSize: 2 * maxRequestBytes,
		BackoffWaitBetween: 25 * time.Millisecond,
		DialOptions: append(more, grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 25 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		})),
	})
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return client, nil
}

// Health is how the store is doing.
func (e *Etcd) Health() Health {
	h, _ := e.health.get()
	return h
}

// Close ends every watch, then the client, then the member, which must still
// be there while the client says goodbye.
func (e *Etcd) Close() error {
	var err error
	e.closing.Do(func() {
		e.end()
		e.running.Wait()
		err = e.client.Close()
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		e.child.close()
	})
	return err
}

// Get implements registry.Store.
func (e *Etcd) Get(ctx context.Context, key string) (registry.Item, error) {
	if err := registry.ValidateKey(key); err != nil {
		return registry.Item{}, err
	}
	ctx, cancel := limited(ctx, readLimit)
	defer cancel()
	response, err := e.client.Get(ctx, dataPrefix+key)
	if err != nil {
		return registry.Item{}, e.readError("get "+key, err)
	}
	if len(response.Kvs) == 0 {
		return registry.Item{}, fault.NotFoundf("get %s: no such key", key)
	}
	return decodeItem(response.Kvs[0])
}

// limited gives ctx a deadline if it has none.
func limited(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}

// readError says what a failed read was doing, and what is wrong with the store.
func (e *Etcd) readError(what string, err error) error {
	if h := e.Health(); h.State == Away {
		return fmt.Errorf("%s: %w (%s): %w", what, registry.ErrAway, h.Reason, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
