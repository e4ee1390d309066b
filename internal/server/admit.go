package server

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// Desk is what a verifier may ask of the server during one attestation. It is
// good for that attestation alone.
type Desk interface {
	// Consume takes the token with this hash. It is gone when the node's record
	// is written, in the same transaction: of any number of attestations that
	// bring the same token exactly one admits a node.
	Consume(ctx context.Context, hash [32]byte) (registry.JoinToken, error)
	// NodeByKey is the node whose key has this hash; none is a NotFound error.
	NodeByKey(ctx context.Context, hash [32]byte) (registry.Node, error)
}

// desk remembers what its attestation has taken.
type desk struct {
	s     *Server
	token *registry.Item // to be deleted with the admission
	node  string         // the token's
}

// Consume reads the token and keeps it for the transaction.
func (d *desk) Consume(ctx context.Context, hash [32]byte) (registry.JoinToken, error) {
	if d.token != nil {
		return registry.JoinToken{}, fault.Deniedf("a second token in one attestation")
	}
	if err := d.s.clockGoesOn(); err != nil {
		return registry.JoinToken{}, err
	}
	if err := d.s.awaitWritable(ctx); err != nil {
		return registry.JoinToken{}, err
	}
	limit, cancel := d.s.patience(ctx)
	defer cancel()
	item, err := d.s.cfg.Store.Get(limit, registry.TokenKey(registry.Hash(hash).String()))
	if err != nil {
		if !fault.Is(err, fault.NotFound) && awayOf(err) {
			return registry.JoinToken{}, away(err)
		}
		return registry.JoinToken{}, err
	}
	token, err := registry.ParseJoinToken(item.Value)
	if err != nil {
		return registry.JoinToken{}, err
	}
	d.token, d.node = &item, token.Node
	return token, nil
}

// NodeByKey looks in the snapshot.
func (d *desk) NodeByKey(_ context.Context, hash [32]byte) (registry.Node, error) {
	snap := d.s.snap()
	name, ok := snap.byKey[hash]
	if !ok {
		return registry.Node{}, fault.NotFoundf("no node has this key")
	}
	d.node = name
	return snap.members[name].node, nil
}

// Admit runs one attestation. The peer that is refused learns only that it was
// and what to do; the log and the audit log learn why.
func (s *Server) Admit(ctx context.Context, who api.Applicant, ex attest.Exchange) (*pb.Admitted, error) {
	verifier, ok := s.cfg.Verifiers[who.Method]
	if !ok {
		return nil, fault.Invalidf("attestation method %q is not offered", who.Method)
	}
	d := &desk{s: s}
	bound := attest.Bind(ex, attest.Bindings{Server: s.id, Key: who.Key})
	evidence, err := verifier(d).Verify(ctx, bound)
	if err == nil {
		var admitted *pb.Admitted
		if admitted, err = s.admit(ctx, d, who, evidence); err == nil {
			return admitted, nil
		}
	}
	return nil, s.refuse(ctx, d, who, err)
}

// refuse returns what the peer may know of a refusal, and records it. The audit
// log gets those that brought a real token or key: what anybody on the network
// can send must not fill a disk.
func (s *Server) refuse(ctx context.Context, d *desk, who api.Applicant, err error) error {
	var gone api.Away
	if errors.As(err, &gone) || ctx.Err() != nil {
		s.log.Warn("attestation not finished", "method", who.Method, "remote", who.Remote, "error", err)
		return err
	}
	s.metrics.refused.Inc()
	s.log.Warn("node refused", "method", who.Method, "remote", who.Remote, "node", d.node, "error", err)
	if d.node != "" {
		event := audit.Event{
			Kind: audit.Admitted, Actor: who.Method, Object: "node " + d.node, Outcome: "refused: " + err.Error(),
			Facts: map[string]string{"remote": who.Remote},
		}
		if recErr := s.record(ctx, event); recErr != nil {
			s.log.Error("audit log not written", "error", recErr)
		}
	}
	neutral := fault.Deniedf("attestation by %s was refused; the server's log says why", who.Method)
	return fault.Hint(neutral, "on the server: kith nodes add <name>, then kith join with the line it prints")
}

// admit lets the node in: rules, one transaction, SVID.
func (s *Server) admit(ctx context.Context, d *desk, who api.Applicant, evidence registry.Evidence) (*pb.Admitted, error) {
	keyHash, err := hashKey(who.Key)
	if err != nil {
		return nil, err
	}
	if registry.Hash(evidence.KeyHash) != keyHash {
		return nil, fault.Deniedf("the proof is for another key than the request's")
	}
	if err := s.freshEnough(staleNewNodes); err != nil {
		return nil, err
	}
	snap := s.snap()
	if snap.banned(evidence.Name) {
		return nil, fault.Deniedf("node %s is banned", evidence.Name)
	}
	old := snap.members[evidence.Name]
	record, err := s.recordFor(snap, evidence, old.node)
	if err != nil {
		return nil, err
	}
	event := audit.Event{
		Kind: audit.Admitted, Actor: evidence.Attestor, Object: "node " + record.Name,
		Facts: map[string]string{"class": record.Class, "key": keyHash.String(), "remote": who.Remote, "version": who.Version},
	}
	if evidence.Attestor == attest.NodeKey {
		err = s.recordFirst(ctx, event)
	} else {
		err = s.enroll(ctx, event, enrolment{record: record, old: old.item, token: d.token})
	}
	if err != nil {
		return nil, err
	}
	admitted, err := s.issueNode(ctx, record, who.Key)
	if err != nil {
		return nil, err
	}
	s.metrics.admitted.Inc()
	s.log.Info("node attested", "node", record.Name, "class", record.Class, "attestor", evidence.Attestor, "remote", who.Remote)
	return admitted, nil
}

// recordFor is the node's record after this admission. A node that comes back
// by its key keeps its class and how it was first admitted.
func (s *Server) recordFor(snap *snapshot, e registry.Evidence, old registry.Node) (registry.Node, error) {
	now := s.cfg.Now().UTC()
	if e.Attestor == attest.NodeKey {
		if old.KeyHash != registry.Hash(e.KeyHash) {
			return registry.Node{}, fault.Deniedf("node %s is not bound to this key", e.Name)
		}
		old.LastAttested = now
		return old, nil
	}
	class, _, err := snap.nodes.AdmitEvidence(e)
	if err != nil {
		return registry.Node{}, err
	}
	return registry.Node{
		Name: e.Name, Class: class, Attestor: e.Attestor, KeyHash: e.KeyHash, Attributes: e.Attributes,
		Joined: now, LastAttested: now, Expires: now.Add(s.lifetime()),
	}, nil
}

// enrolment is what one admission writes.
type enrolment struct {
	record registry.Node
	old    registry.Item  // the record of that name before; no key: there is none
	token  *registry.Item // what the node brought, to be used up; may be nil
}

// enroll writes the node's record and takes its token, exactly once.
func (s *Server) enroll(ctx context.Context, event audit.Event, e enrolment) error {
	value, err := e.record.Marshal()
	if err != nil {
		return err
	}
	key := registry.NodeKey(e.record.Name)
	txn := registry.Txn{If: []registry.Condition{registry.IfAbsent(key)}, Do: []registry.Op{registry.Put(key, value)}}
	if e.old.Key != "" {
		txn.If[0] = registry.IfUnchanged(e.old)
	}
	if e.token != nil {
		txn.If = append(txn.If, registry.IfUnchanged(*e.token))
		txn.Do = append(txn.Do, registry.Delete(e.token.Key))
	}
	version, err := s.audited(ctx, event, func() (registry.Version, error) { return s.commit(ctx, txn) })
	if fault.Is(err, fault.Conflict) {
		return fault.Deniedf("the join token has been used, or node %s changed meanwhile: %w", e.record.Name, err)
	}
	if err != nil {
		return err
	}
	return s.arrive(ctx, version)
}

// hashKey is the SHA-256 of a public key's SPKI.
func hashKey(key crypto.PublicKey) (registry.Hash, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return registry.Hash{}, fault.Invalidf("node key: %w", err)
	}
	return sha256.Sum256(der), nil
}

// nodeID is the SPIFFE ID of a node.
func nodeID(td spiffe.TrustDomain, name string) (spiffe.ID, error) {
	return spiffe.NewID(td, "/kith/node/"+name)
}
