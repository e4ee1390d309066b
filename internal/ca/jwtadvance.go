package ca

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/spiffe"
)

// The algorithms of JWT-SVIDs. Each has its own keys.
const (
	es256 = "ES256"
	rs256 = "RS256"
)

// keyKind is what a key of the ring signs: tokens of one kind by one algorithm.
type keyKind struct{ use, algorithm string }

// forWIT is the use of keys for WIT-SVIDs; that of keys for JWT-SVIDs is empty.
const forWIT = "wit"

// jwtKinds are all kinds of key that a ring holds, in their order.
func jwtKinds() []keyKind { return []keyKind{{"", es256}, {"", rs256}, {forWIT, es256}} }

// lifetime is how long a token of this kind lives, at most.
func (k keyKind) lifetime() time.Duration {
	if k.use == forWIT {
		return WITLifetime
	}
	return JWTLifetime
}

// A key for JWT-SVIDs goes through phases that its record shows: published, and
// signing nothing yet; trusted, when every live node has acked it and others have
// had the time to fetch it, which is when it takes the place of the one before;
// signing; and retired, published until the last token it signed has ended.
const (
	jwtPeriod  = 24 * time.Hour // how long a key signs, at least
	jwtLead    = time.Hour      // how long before the end of it the next one is published
	maxJWTKeys = 3              // of each kind

	jwtRingVersion  = 2
	maxJWTRingBytes = 64 << 10
)

// JWTRingConfig is what a ring of keys for JWT-SVIDs is advanced by.
type JWTRingConfig struct {
	TrustDomain spiffe.TrustDomain
	KEK         *keys.KEK // seals the keys
	Now         time.Time
	RS256       bool // some audience reads nothing but RS256
	WIT         bool // WIT-SVIDs are issued

	// Revision is the one that what comes out will be stored at.
	Revision uint64
	// Laggards are the live nodes that have not acked a revision. Nil: there are
	// no nodes.
	Laggards func(revision uint64) []string
	// Settling says that it is not known yet who is live: no key begins to sign.
	Settling bool
	// Refresh is how long others, who are told nothing, may keep a bundle.
	Refresh time.Duration
	// SignedUntil is when the last token ends that this server has signed with a
	// key; nil, or a zero time: before the key retired.
	SignedUntil func(kid string) time.Time
}

// JWTAdvance is what a ring must be now.
type JWTAdvance struct {
	Ring    []byte // to store, and to give to [CA.UseJWTRing]
	Changed bool
	// Laggards are the nodes that a published key waits for although it is time
	// that it signs.
	Laggards []string
}

// storedJWTRing is the form in which the caller keeps a ring. There is one for
// a trust domain, however many servers it has.
type storedJWTRing struct {
	Version     int            `json:"version"`
	TrustDomain string         `json:"trust_domain"`
	Sequence    uint64         `json:"sequence"` // grows with each change
	Keys        []storedJWTKey `json:"keys"`     // oldest first
}

type storedJWTKey struct {
	ID        string    `json:"kid"`
	Use       string    `json:"use,omitempty"` // wit, or nothing for JWT-SVIDs
	Algorithm string    `json:"alg"`
	Public    []byte    `json:"public"` // SubjectPublicKeyInfo
	Key       []byte    `json:"key"`    // sealed
	Created   time.Time `json:"created"`
	Published uint64    `json:"published"`           // revision of the store
	SignsFrom time.Time `json:"signs_from,omitzero"` // zero while it is only published
	Retired   time.Time `json:"retired,omitzero"`    // zero until another signs in its place
}

func (k storedJWTKey) signing() bool   { return !k.SignsFrom.IsZero() && k.Retired.IsZero() }
func (k storedJWTKey) published() bool { return k.SignsFrom.IsZero() }

// AdvanceJWTRing takes a ring as far as it can go now; no ring makes the first one.
func AdvanceJWTRing(stored []byte, config JWTRingConfig) (JWTAdvance, error) {
	ring := storedJWTRing{Version: jwtRingVersion, TrustDomain: config.TrustDomain.String()}
	first := stored == nil
	if !first {
		var err error
		if ring, err = parseJWTRing(stored, config.TrustDomain); err != nil {
			return JWTAdvance{}, err
		}
	}
	config.Now = config.Now.UTC().Truncate(time.Second)
	out := JWTAdvance{Ring: stored}
	var next []storedJWTKey
	for _, kind := range jwtKinds() {
		turn := jwtTurn{config: config, kind: kind, first: first, keys: ring.of(kind)}
		if err := turn.advance(); err != nil {
			return JWTAdvance{}, err
		}
		next = append(next, turn.keys...)
		out.Changed = out.Changed || turn.changed
		out.Laggards = append(out.Laggards, turn.laggards...)
	}
	slices.Sort(out.Laggards)
	out.Laggards = slices.Compact(out.Laggards)
	if !out.Changed {
		return out, nil
	}
	ring.Keys, ring.Sequence = next, ring.Sequence+1
	var err error
	out.Ring, err = json.Marshal(ring)
	return out, err
}

func (k storedJWTKey) kind() keyKind { return keyKind{k.Use, k.Algorithm} }

func (r storedJWTRing) of(kind keyKind) []storedJWTKey {
	return slices.DeleteFunc(slices.Clone(r.Keys), func(k storedJWTKey) bool { return k.kind() != kind })
}

// jwtTurn takes the keys of one kind through one round of their phases.
type jwtTurn struct {
	config   JWTRingConfig
	kind     keyKind
	first    bool // nobody has a bundle of this trust domain yet
	keys     []storedJWTKey
	changed  bool
	laggards []string
}

// wanted says whether keys of this kind are to sign.
func (t *jwtTurn) wanted() bool {
	switch t.kind {
	case keyKind{"", rs256}:
		return t.config.RS256
	case keyKind{forWIT, es256}:
		return t.config.WIT
	default:
		return true
	}
}

func (t *jwtTurn) advance() error {
	now := t.config.Now
	wanted := t.wanted()
	before := len(t.keys)
	t.keys = slices.DeleteFunc(t.keys, func(k storedJWTKey) bool {
		return t.over(k) || !wanted && k.published() // which has signed nothing
	})
	t.changed = len(t.keys) != before
	signing := slices.IndexFunc(t.keys, storedJWTKey.signing)
	next := slices.IndexFunc(t.keys, storedJWTKey.published)
	switch {
	case !wanted && signing >= 0:
		t.keys[signing].Retired, t.changed = now, true
		return nil
	case !wanted:
		return nil
	case signing < 0 && next < 0:
		return t.publish()
	case signing < 0:
		return t.promote(next, -1)
	case next < 0 && len(t.keys) < maxJWTKeys && !now.Before(t.keys[signing].SignsFrom.Add(jwtPeriod-jwtLead)):
		return t.publish()
	case next >= 0 && !now.Before(t.keys[signing].SignsFrom.Add(jwtPeriod)):
		return t.promote(next, signing)
	}
	return nil
}

// over says whether no token of a key can be about any more, by any clock that
// is not too far off.
func (t *jwtTurn) over(k storedJWTKey) bool {
	if k.Retired.IsZero() {
		return false
	}
	end := k.Retired.Add(t.kind.lifetime())
	if t.config.SignedUntil != nil {
		end = later(end, t.config.SignedUntil(k.ID))
	}
	return !t.config.Now.Before(end.Add(maxSkew))
}

// publish makes a new key, which signs at once only in a trust domain that is
// just being made: nobody holds a bundle without it.
func (t *jwtTurn) publish() error {
	key, err := newJWTKey(t.config, t.kind)
	if err != nil {
		return err
	}
	if t.first {
		key.SignsFrom = t.config.Now
	}
	t.keys, t.changed = append(t.keys, key), true
	return nil
}

// promote lets the published key sign in the place of the present one, if all who
// verify can be expected to know it. The first of its algorithm takes nobody's
// place: no token fails for want of it, and only the nodes are waited for.
func (t *jwtTurn) promote(next, present int) error {
	key := &t.keys[next]
	if t.config.Settling || present >= 0 && t.config.Now.Before(key.Created.Add(2*t.config.Refresh)) {
		return nil
	}
	if t.config.Laggards != nil {
		if t.laggards = t.config.Laggards(key.Published); len(t.laggards) > 0 {
			return nil
		}
	}
	key.SignsFrom, t.changed = t.config.Now, true
	if present >= 0 {
		t.keys[present].Retired = t.config.Now
	}
	return nil
}

func newJWTKey(config JWTRingConfig, kind keyKind) (storedJWTKey, error) {
	generate := keys.Generate
	if kind.algorithm == rs256 {
		generate = keys.GenerateRSA
	}
	key, err := generate()
	if err != nil {
		return storedJWTKey{}, err
	}
	defer key.Wipe()
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return storedJWTKey{}, fmt.Errorf("encode JWT key: %w", err)
	}
	id, err := randomID()
	if err != nil {
		return storedJWTKey{}, err
	}
	sealed, err := key.Seal(config.KEK, jwtPurpose(config.TrustDomain, kind.use, id))
	if err != nil {
		return storedJWTKey{}, err
	}
	return storedJWTKey{
		ID: id, Use: kind.use, Algorithm: kind.algorithm, Public: public, Key: sealed,
		Created: config.Now, Published: config.Revision,
	}, nil
}

// jwtPurpose binds a sealed key to its kid and use, so that two cannot be
// exchanged and none can be put to another use.
func jwtPurpose(td spiffe.TrustDomain, use, id string) string {
	kind := "JWT key "
	if use == forWIT {
		kind = "WIT key "
	}
	return kind + id + " of " + td.String()
}

func parseJWTRing(stored []byte, td spiffe.TrustDomain) (storedJWTRing, error) {
	var ring storedJWTRing
	if len(stored) > maxJWTRingBytes || json.Unmarshal(stored, &ring) != nil {
		return ring, fault.Invalidf("stored JWT keys: cannot be read")
	}
	switch {
	case ring.Version != jwtRingVersion:
		return ring, fault.Invalidf("stored JWT keys: have version %d, this program knows version %d", ring.Version, jwtRingVersion)
	case ring.TrustDomain != td.String():
		return ring, fault.Invalidf("stored JWT keys: are of trust domain %q, not %s", ring.TrustDomain, td)
	}
	known := 0
	for _, kind := range jwtKinds() {
		all := ring.of(kind)
		known += len(all)
		if err := checkPhases(all); err != nil {
			return ring, fault.Invalidf("stored JWT keys for %s %s: %w", kind.algorithm, kind.use, err)
		}
	}
	if len(ring.of(jwtKinds()[0])) == 0 || known != len(ring.Keys) {
		return ring, fault.Invalidf("stored JWT keys: none is for %s, or some for what this program does not know", es256)
	}
	return ring, nil
}

// checkPhases refuses keys that are not retired, then signing, then published, at
// most one of them signing and one published.
func checkPhases(all []storedJWTKey) error {
	if len(all) > maxJWTKeys {
		return fmt.Errorf("there are %d, at most %d are allowed", len(all), maxJWTKeys)
	}
	phase := func(k storedJWTKey) int {
		switch {
		case k.published():
			return 2
		case k.signing():
			return 1
		}
		return 0
	}
	for i, key := range all[min(1, len(all)):] {
		before := all[i]
		if phase(key) < phase(before) || phase(key) == phase(before) && (phase(key) > 0 || key.Retired.Before(before.Retired)) {
			return fmt.Errorf("%s is out of turn after %s", key.ID, before.ID)
		}
	}
	return nil
}
