package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
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
	cacheForm  = 2
)

// keeper knows which part of the cache has to be written.
type keeper struct {
	state, svids chan struct{} // capacity 1
	journal      journal       // owned by keepCache, as is near
	near         []byte        // what was written last of what is near, see Agent.near

	mu     sync.Mutex
	deltas [][]byte // guarded by mu, as is all below: changes of the world that are to be written
	size   int      // of deltas
	whole  bool     // they do not lead from what is written to the world
	beside bool     // what is beside the world has changed
}

func (k *keeper) init(f files, now func() time.Time) {
	k.state, k.svids, k.whole = make(chan struct{}, 1), make(chan struct{}, 1), true
	k.journal = journal{files: f, now: now}
}

// worldChanged is told of the world's changes in order; a nil delta is of a world
// that came as a whole.
func (k *keeper) worldChanged(delta []byte) {
	k.mu.Lock()
	k.deltas = append(k.deltas, delta)
	if k.size += len(delta); delta == nil || k.size > maxJournal || k.whole {
		k.whole, k.deltas, k.size = true, nil, 0
	}
	k.mu.Unlock()
	poke(k.state)
}

// stateChanged is told of changes beside the world.
func (k *keeper) stateChanged() {
	k.mu.Lock()
	k.beside = true
	k.mu.Unlock()
	poke(k.state)
}

// take is what is to be written; it is not to be written again, unless it fails.
func (k *keeper) take() (deltas [][]byte, whole, beside bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	deltas, whole, beside = k.deltas, k.whole, k.beside
	k.deltas, k.size, k.whole, k.beside = nil, 0, false, false
	return deltas, whole, beside
}

// failed has the whole cache written at the next change.
func (k *keeper) failed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deltas, k.size, k.whole = nil, 0, true
}

func (k *keeper) svidsChanged() { poke(k.svids) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// stateCache is state.cache: what the server had said when it was written, and what
// was announced. state.journal goes on from it.
type stateCache struct {
	Form    int    `json:"form"`
	Journal string `json:"journal"` // names it for the journal
	State   []byte `json:"state"`   // kith.v1.State
	beside
}

// beside is what the cache has beside the state.
type beside struct {
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

// keepCache writes the cache behind changes until ctx ends, and then once more, as a
// whole: the next start has no journal to read.
func (a *Agent) keepCache(ctx context.Context) {
	defer func() { a.cacheFailed(a.keep.journal.close()) }()
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
		if state = poked(a.keep.state) || state || ended && a.keep.journal.records > 0; state {
			a.cacheFailed(a.saveState(ended))
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

// saveState writes what has changed to the journal, or the cache as a whole where
// there is none to go on from, the journal has reached its bounds, or at the end.
func (a *Agent) saveState(end bool) error {
	near, interest, err := a.near() // before the world: what was covered then is now
	if err != nil {
		return err
	}
	deltas, whole, changed := a.keep.take()
	w := a.world.Load()
	if w == nil {
		a.keep.failed()
		return nil
	}
	if !whole && !end {
		r := record{Deltas: deltas}
		if changed || !bytes.Equal(near, a.keep.near) {
			if r.Beside, err = a.beside(interest); err != nil {
				a.keep.failed()
				return err
			}
		}
		if err = a.keep.journal.add(r); err == nil {
			a.keep.near = near
			return nil
		}
	}
	if failed := a.saveWhole(w, interest); failed != nil {
		a.keep.failed()
		if errors.Is(err, errFull) {
			err = nil
		}
		return errors.Join(err, failed)
	}
	a.keep.near = near
	return nil
}

func (a *Agent) saveWhole(w *world, interest []string) error {
	more, err := a.beside(interest)
	if err != nil {
		return err
	}
	name, err := a.files.writeState(w, more)
	if err != nil {
		return err
	}
	return a.keep.journal.end(name)
}

// writeState writes the cache as a whole, for good, and gives its name for the
// journal that goes on from it.
func (f files) writeState(w *world, more *beside) (name string, err error) {
	file := stateCache{Form: cacheForm, Journal: rand.Text(), beside: *more}
	if file.State, err = proto.Marshal(w.state()); err != nil {
		return "", err
	}
	data, err := json.Marshal(file)
	if err != nil {
		return "", err
	}
	return file.Journal, errors.Join(f.write(f.state(), data), f.sync())
}

// near is what can change beside the world without anybody saying so: interest,
// and endpoints as rules and services change.
func (a *Agent) near() (near []byte, interest []string, err error) {
	interest = a.interest.saved()
	endpoints, err := a.savedEndpoints()
	if err != nil {
		return nil, nil, err
	}
	near, err = json.Marshal(beside{Endpoints: endpoints, Interest: interest})
	return near, interest, err
}

func (a *Agent) savedEndpoints() (out [][]byte, err error) {
	endpoints := a.localEndpoints()
	if frozen := a.frozen.Load(); frozen != nil {
		endpoints = *frozen
	}
	for _, e := range endpoints {
		raw, err := proto.Marshal(e)
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}

// beside is all of it, as it is now.
func (a *Agent) beside(interest []string) (*beside, error) {
	out := &beside{Interest: interest, ProviderKeys: a.keys.Saved()}
	var err error
	if out.Directory, err = proto.Marshal(a.catalog.view()); err != nil {
		return nil, err
	}
	out.Endpoints, err = a.savedEndpoints()
	return out, err
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
	w, kept, torn, err := a.files.readState()
	if w == nil || err != nil {
		return err
	}
	if torn != nil { // what is lacking the server tells again
		a.cfg.Log.Warn("journal of the cache ends early", "revision", w.revision, "error", torn)
	}
	directory := &pb.DirectoryView{}
	if err := proto.Unmarshal(kept.Directory, directory); err != nil {
		return err
	}
	if at := a.standing.Load(); !at.admitted() || w.domain != at.domain() || w.node != at.node {
		return nil // of another life of this node
	}
	var before []*pb.LocalEndpoint
	for _, raw := range kept.Endpoints {
		e := &pb.LocalEndpoint{}
		if err := proto.Unmarshal(raw, e); err != nil {
			return err
		}
		before = append(before, e)
	}
	a.world.Store(w)
	a.interest.restore(kept.Interest)
	a.keys.Restore(kept.ProviderKeys)
	a.catalog.apply(&pb.Directory{Entries: directory.GetEntries()})
	a.remembered.Store(&before)
	return nil
}

// readState is the world that the cache and its journal lead to, and what is beside
// it; nil where there is no cache of this form. torn is why the journal was not
// followed to its end.
func (f files) readState() (w *world, kept *beside, torn, err error) {
	data, err := f.read(f.state(), maxCache)
	if data == nil || err != nil {
		return nil, nil, nil, err
	}
	var file stateCache
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, nil, nil, err
	}
	if file.Form != cacheForm {
		return nil, nil, nil, nil
	}
	state := &pb.State{}
	if err := proto.Unmarshal(file.State, state); err != nil {
		return nil, nil, nil, err
	}
	if w, err = newWorld(state); err != nil {
		return nil, nil, nil, err
	}
	records, torn := f.readJournal(file.Journal)
	for _, r := range records {
		next, err := w.replay(r.Deltas)
		if err != nil {
			return w, &file.beside, fmt.Errorf("record %d: %w", r.Number, err), nil
		}
		w = next
		if r.Beside != nil {
			file.beside = *r.Beside
		}
	}
	return w, &file.beside, torn, nil
}

// replay is the world that deltas lead to. The first may be in it already: they are
// kept from before the cache is written until it is.
func (w *world) replay(deltas [][]byte) (*world, error) {
	for _, raw := range deltas {
		delta := &pb.Delta{}
		if err := proto.Unmarshal(raw, delta); err != nil {
			return nil, err
		}
		if delta.GetRevision() <= w.revision {
			continue
		}
		var err error
		if w, err = w.apply(delta); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// state is the world as a message.
func (w *world) state() *pb.State {
	out := w.head()
	out.Objects = make([]*pb.Object, 0, w.objects.Len())
	for _, o := range w.objects.All() {
		out.Objects = append(out.Objects, o)
	}
	return out
}
