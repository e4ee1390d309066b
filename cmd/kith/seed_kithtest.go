//go:build kithtest

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/kith-id/kith/internal/registry"
)

// storeFor is the engine, or with KITH_TEST_FAULT=ack-before-commit a store that
// acknowledges from memory and writes up to half a second later: what a kill loses
// was acknowledged.
func storeFor(engine registry.Store) (registry.Store, error) {
	if os.Getenv("KITH_TEST_FAULT") != "ack-before-commit" {
		return engine, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	items, _, err := engine.Range(ctx, "")
	if err != nil {
		return nil, err
	}
	memory := throwAwayStore()
	for _, item := range items {
		if _, err := memory.Commit(ctx, registry.Txn{Do: []registry.Op{registry.Put(item.Key, item.Value)}}); err != nil {
			return nil, fmt.Errorf("copy the store: %w", err)
		}
	}
	hasty := &hastyStore{Store: memory, late: make(chan registry.Txn, 1<<16)}
	go hasty.write(engine)
	return hasty, nil
}

// hastyStore has a seeded bug.
type hastyStore struct {
	registry.Store

	late chan registry.Txn
}

// Commit acknowledges what only memory has.
func (h *hastyStore) Commit(ctx context.Context, txn registry.Txn) (registry.Version, error) {
	version, err := h.Store.Commit(ctx, txn)
	if err == nil {
		h.late <- registry.Txn{Do: txn.Do}
	}
	return version, err
}

// write brings the engine up to date twice a second, until the process ends.
func (h *hastyStore) write(engine registry.Store) {
	for range time.Tick(500 * time.Millisecond) {
		for range len(h.late) {
			txn := <-h.late
			for err := errors.New("not tried"); err != nil; {
				_, err = engine.Commit(context.Background(), txn)
			}
		}
	}
}
