package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// secondHandle is another server's view of the same member. What it sends and
// gets goes through the interceptor.
func secondHandle(t *testing.T, e *Etcd, through grpc.UnaryClientInterceptor) *Etcd {
	t.Helper()
	client, err := newClient(t.Context(), e.endpoint, grpc.WithChainUnaryInterceptor(through))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	other := &Etcd{cfg: e.cfg, endpoint: e.endpoint, health: e.health, child: e.child, client: client, life: t.Context(), writing: make(chan struct{}, 1)}
	other.writing <- struct{}{}
	return other
}

func isWrite(request any) bool {
	txn, ok := request.(*pb.TxnRequest)
	return ok && len(txn.Compare) > 0
}

func increment(ctx context.Context, e *Etcd, key string) error {
	for {
		item, err := e.Get(ctx, key)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(item.Value))
		if err != nil {
			return err
		}
		_, err = e.Commit(ctx, registry.Txn{
			If: []registry.Condition{registry.IfUnchanged(item)},
			Do: []registry.Op{registry.Put(key, []byte(strconv.Itoa(n+1)))},
		})
		if !fault.Is(err, fault.Conflict) {
			return err
		}
	}
}

// TestLostAnswersCountOnce has one server's answers lost on the way back while
// another server writes as well: every commit is reported as what it was.
func TestLostAnswersCountOnce(t *testing.T) {
	t.Parallel()
	e := openEtcd(t, testConfig(t))
	ctx, cancel := context.WithTimeout(t.Context(), 2*testLimit)
	defer cancel()
	var calls, lost atomic.Int32
	other := secondHandle(t, e, func(ctx context.Context, method string, request, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if !isWrite(request) {
			return invoke(ctx, method, request, reply, cc, opts...)
		}
		switch calls.Add(1) % 3 {
		case 0: // it worked but said no
			lost.Add(1)
			if err := invoke(ctx, method, request, reply, cc, opts...); err != nil {
				return err
			}
			return status.Error(codes.Unavailable, "transport is closing")
		case 1: // it never arrived
			return status.Error(codes.Unavailable, "transport is closing")
		}
		return invoke(ctx, method, request, reply, cc, opts...)
	})
	if _, err := putOne(ctx, e, "n/x", "0"); err != nil {
		t.Fatal(err)
	}
	const each = 30
	var running sync.WaitGroup
	for _, handle := range []*Etcd{e, other} {
		running.Go(func() {
			for range each {
				if err := increment(ctx, handle, "n/x"); err != nil {
					t.Error(err)
				}
				if _, err := putOne(ctx, handle, fmt.Sprintf("p/%p", handle), "x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
	item, err := e.Get(ctx, "n/x")
	if err != nil || string(item.Value) != strconv.Itoa(2*each) {
		t.Errorf("counter is %s after %d increments (%v)", item.Value, 2*each, err)
	}
	_, version, err := e.Range(ctx, "")
	if want := registry.Version(1 + 4*each); err != nil || version != want {
		t.Errorf("version is %d after %d commits (%v)", version, want, err)
	}
	if lost.Load() == 0 {
		t.Error("no answer was lost")
	}
}

// TestCutOffCommitIsUncertain ends the context while the answer is on its way.
func TestCutOffCommitIsUncertain(t *testing.T) {
	t.Parallel()
	e := openEtcd(t, testConfig(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	other := secondHandle(t, e, func(ctx context.Context, method string, request, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := invoke(ctx, method, request, reply, cc, opts...)
		if isWrite(request) {
			cancel()
			return status.Error(codes.Canceled, "context canceled")
		}
		return err
	})
	if _, err := putOne(ctx, other, "a/x", "one"); !errors.Is(err, registry.ErrUncertain) || errors.Is(err, registry.ErrAway) {
		t.Errorf("got %v, want ErrUncertain", err)
	}
	if item, err := e.Get(t.Context(), "a/x"); err != nil || item.Version != 1 {
		t.Errorf("the commit that was cut off: %+v, %v", item, err)
	}
	if version, err := putOne(t.Context(), e, "a/x", "two"); err != nil || version != 2 {
		t.Errorf("the next commit: version %d, %v", version, err)
	}
}
