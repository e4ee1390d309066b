package server

import (
	"crypto/x509"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/pb"
)

// maxIssued bounds the table of issued identities; beyond it the ones that end
// first are forgotten. It is for people to look at, nothing depends on it.
const maxIssued = 65536

// issuedTable is what this server issued and still holds.
type issuedTable struct {
	mu   sync.Mutex
	rows map[issuedKey]*pb.IdentityInfo // guarded by mu; rows are replaced, not changed
}

type issuedKey struct{ node, id string }

func newIssuedTable() *issuedTable { return &issuedTable{rows: make(map[issuedKey]*pb.IdentityInfo)} }

func (t *issuedTable) add(r ca.Request, node string, leaf *x509.Certificate, now time.Time) {
	row := &pb.IdentityInfo{
		SpiffeId: r.ID.String(), Rule: r.Rule, Node: node, Serial: leaf.SerialNumber.Text(16),
		IssuedUnix: now.Unix(), ExpiresUnix: leaf.NotAfter.Unix(),
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows[issuedKey{node, row.GetSpiffeId()}] = row
	if len(t.rows) > maxIssued {
		t.shrink(now)
	}
}

// shrink forgets what has ended, and then what ends first, down to 15/16.
func (t *issuedTable) shrink(now time.Time) {
	ends := make([]int64, 0, len(t.rows))
	for key, row := range t.rows {
		if row.GetExpiresUnix() <= now.Unix() {
			delete(t.rows, key)
			continue
		}
		ends = append(ends, row.GetExpiresUnix())
	}
	keep := maxIssued / 16 * 15
	if len(ends) <= keep {
		return
	}
	slices.Sort(ends)
	limit := ends[len(ends)-keep]
	for key, row := range t.rows {
		if row.GetExpiresUnix() < limit || len(t.rows) > keep && row.GetExpiresUnix() == limit {
			delete(t.rows, key)
		}
	}
}

// used drops the rows of a node that its agent holds no more. An agent lists
// all identities it serves; what was issued just now may not be among them yet.
func (t *issuedTable) used(node string, identities map[string]int64, now time.Time) {
	if len(identities) == 0 || len(identities) > maxIssued {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, row := range t.rows {
		_, held := identities[key.id]
		if key.node == node && !held && now.Unix()-row.GetIssuedUnix() > 10 {
			delete(t.rows, key)
		}
	}
}

// drop forgets what a node holds.
func (t *issuedTable) drop(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.rows {
		if key.node == node {
			delete(t.rows, key)
		}
	}
}

// list is what holds now, by ID and node.
func (t *issuedTable) list(now time.Time) []*pb.IdentityInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*pb.IdentityInfo, 0, len(t.rows))
	for key, row := range t.rows {
		if row.GetExpiresUnix() <= now.Unix() {
			delete(t.rows, key)
			continue
		}
		out = append(out, row)
	}
	slices.SortFunc(out, func(a, b *pb.IdentityInfo) int {
		if c := strings.Compare(a.GetSpiffeId(), b.GetSpiffeId()); c != 0 {
			return c
		}
		return strings.Compare(a.GetNode(), b.GetNode())
	})
	return out
}

// seenTable is when nodes were last heard of, and what of it is not in the
// store yet.
type seenTable struct {
	mu      sync.Mutex
	last    map[string]time.Time // guarded by mu, as is all below
	expires map[string]time.Time // of the newest SVID
	pending map[string]standing
}

// standing is what the next flush writes of a node.
type standing struct {
	expires, attested time.Time
}

func newSeenTable() *seenTable {
	return &seenTable{
		last: make(map[string]time.Time), expires: make(map[string]time.Time), pending: make(map[string]standing),
	}
}

func (t *seenTable) touch(node string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last[node] = now
}

func (t *seenTable) issued(node string, expires, attested, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last[node], t.expires[node] = now, expires
	t.pending[node] = standing{expires: expires, attested: attested}
}

// take empties what is pending, for a flush; what fails comes back by put.
func (t *seenTable) take() map[string]standing {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.pending
	t.pending = make(map[string]standing)
	return out
}

// put gives back what could not be written, unless there is newer.
func (t *seenTable) put(back map[string]standing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, s := range back {
		if _, newer := t.pending[name]; !newer {
			t.pending[name] = s
		}
	}
}

func (t *seenTable) of(node string) (last, expires time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last[node], t.expires[node]
}

func (t *seenTable) drop(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.last, node)
	delete(t.expires, node)
	delete(t.pending, node)
}
