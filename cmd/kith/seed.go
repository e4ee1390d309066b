//go:build !kithtest

package main

import "github.com/kith-id/kith/internal/registry"

// storeFor is the store that the server gets. A build with the tag kithtest can
// put a bad one in its place, to show that the chaos suite sees it; this build
// has no such thing.
func storeFor(engine registry.Store) (registry.Store, error) { return engine, nil }
