package agent

import (
	"context"
	"encoding/json"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/jwks"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/workload"
)

const (
	maxCache = 256 << 20
	// cachePause gathers changes that come together into one write.
	cachePause = 100 * time.Millisecond
	cacheForm  = 1
)

// keeper knows which part of the cache has to be written.
type keeper struct {
	state, svids chan struct{} // capacity 1
	encoder      encoder       // owned by keepCache
}

func (k *keeper) init() { k.state, k.svids = make(chan struct{}, 1), make(chan struct{}, 1) }

func (k *keeper) stateChanged() { poke(k.state) }

func (k *keeper) svidsChanged() { poke(k.svids) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// stateCache is state.cache: what the server has said, and what was announced.
type stateCache struct {
	Form      int      `json:"form"`
	State     []byte   `json:"state"`     // kith.v1.State
	Directory []byte   `json:"directory"` // kith.v1.DirectoryView
	Endpoints [][]byte `json:"endpoints"` // kith.v1.LocalEndpoint
	Interest  []string `json:"interest"`  // services that the state was up to date on

	ProviderKeys []jwks.Saved `json:"provider_keys,omitempty"`
}

// svidCache is svids.cache.
type svidCache struct {
	Form  int              `json:"form"`
	SVIDs []workload.Saved `json:"svids"`
}

// keepCache writes the cache behind changes until ctx ends, and then once more.
func (a *Agent) keepCache(ctx context.Context) {
	for ended := false; !ended; {
		state, svids := false, false
		select {
		case <-ctx.Done():
		case <-a.keep.state:
			state = true
		case <-a.keep.svids:
			svids = true
		}
		timer := time.NewTimer(cachePause)
		select {
		case <-ctx.Done():
			ended = true
		case <-timer.C:
		}
		timer.Stop()
		if state = poked(a.keep.state) || state; state {
			a.cacheFailed(a.saveState())
		}
		if svids = poked(a.keep.svids) || svids; svids {
			a.cacheFailed(a.saveSVIDs())
		}
	}
}

func poked(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (a *Agent) cacheFailed(err error) {
	if err != nil {
		a.cfg.Log.Warn("cache not written", "error", err)
	}
}

func (a *Agent) saveState() error {
	interest := a.interest.saved() // before the world: what was covered then is now
	w := a.world.Load()
	if w == nil {
		return nil
	}
	file := stateCache{Form: cacheForm, Interest: interest, ProviderKeys: a.keys.Saved()}
	var err error
	if file.State, err = a.keep.encoder.state(w); err != nil {
		return err
	}
	if file.Directory, err = proto.Marshal(a.catalog.view()); err != nil {
		return err
	}
	endpoints := a.localEndpoints()
	if frozen := a.frozen.Load(); frozen != nil {
		endpoints = *frozen
	}
	for _, e := range endpoints {
		raw, err := proto.Marshal(e)
		if err != nil {
			return err
		}
		file.Endpoints = append(file.Endpoints, raw)
	}
	data, err := json.Marshal(file)
	if err != nil {
		return err
	}
	return a.files.write(a.files.state(), data)
}

func (a *Agent) saveSVIDs() error {
	data, err := json.Marshal(svidCache{Form: cacheForm, SVIDs: a.identities.Snapshot()})
	if err != nil {
		return err
	}
	return a.files.write(a.files.svids(), data)
}

// restore brings back the cache. A cache that cannot be read is a slower start
// and nothing worse: the server will tell everything again.
func (a *Agent) restore() {
	if err := a.restoreState(); err != nil {
		a.cfg.Log.Warn("cache not usable", "error", err)
		return
	}
	if a.world.Load() == nil {
		return
	}
	data, err := a.files.read(a.files.svids(), maxCache)
	if err != nil || data == nil {
		return
	}
	var file svidCache
	if err := json.Unmarshal(data, &file); err != nil || file.Form != cacheForm {
		a.cfg.Log.Warn("cache not usable", "error", err, "form", file.Form)
		return
	}
	a.identities.Restore(file.SVIDs)
}

func (a *Agent) restoreState() error {
	data, err := a.files.read(a.files.state(), maxCache)
	if data == nil || err != nil {
		return err
	}
	var file stateCache
	if err := json.Unmarshal(data, &file); err != nil {
		return err
	}
	if file.Form != cacheForm {
		return nil
	}
	state, directory := &pb.State{}, &pb.DirectoryView{}
	if err := proto.Unmarshal(file.State, state); err != nil {
		return err
	}
	if err := proto.Unmarshal(file.Directory, directory); err != nil {
		return err
	}
	w, err := newWorld(state)
	if err != nil {
		return err
	}
	if at := a.standing.Load(); !at.admitted() || w.domain != at.domain() || w.node != at.node {
		return nil // of another life of this node
	}
	var before []*pb.LocalEndpoint
	for _, raw := range file.Endpoints {
		e := &pb.LocalEndpoint{}
		if err := proto.Unmarshal(raw, e); err != nil {
			return err
		}
		before = append(before, e)
	}
	a.world.Store(w)
	a.interest.restore(file.Interest)
	a.keys.Restore(file.ProviderKeys)
	a.catalog.apply(&pb.Directory{Entries: directory.GetEntries()})
	a.remembered.Store(&before)
	return nil
}
