package server

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

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
}

// Consume reads the token and keeps it for the transaction.
func (d *desk) Consume(ctx context.Context, hash [32]byte) (registry.JoinToken, error) {
	if d.token != nil {
		return registry.JoinToken{}, fault.Deniedf("a second token in one attestation")
	}
	if err := d.s.writable(); err != nil {
		return registry.JoinToken{}, err
	}
	limit, cancel := context.WithTimeout(ctx, commitLimit)
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
	d.token = &item
	return token, nil
}

// NodeByKey looks in the snapshot.
func (d *desk) NodeByKey(_ context.Context, hash [32]byte) (registry.Node, error) {
	snap := d.s.snap()
	name, ok := snap.byKey[hash]
	if !ok {
		return registry.Node{}, fault.NotFoundf("no node has this key")
	}
	return snap.members[name].node, nil
}

// Admit runs one attestation. The peer that is refused learns only that it was
// and what to do; the log and the audit log learn why.
func (s *Server) Admit(ctx context.Context, who api.Applicant, ex attest.Exchange) (*pb.Admitted, error) {
	make, ok := s.cfg.Verifiers[who.Method]
	if !ok {
		return nil, fault.Invalidf("attestation method %q is not offered", who.Method)
	}
	d := &desk{s: s}
	bound := attest.Bind(ex, attest.Bindings{Server: s.id, Key: who.Key})
	evidence, err := make(d).Verify(ctx, bound)
	if err == nil {
		var admitted *pb.Admitted
		if admitted, err = s.admit(ctx, d, who, evidence); err == nil {
			return admitted, nil
		}
	}
	return nil, s.refuse(ctx, who, evidence, err)
}

// refuse records a refusal and returns what the peer may know of it.
func (s *Server) refuse(ctx context.Context, who api.Applicant, evidence registry.Evidence, err error) error {
	var gone api.Away
	if errors.As(err, &gone) || ctx.Err() != nil {
		s.log.Warn("attestation not finished", "method", who.Method, "remote", who.Remote, "error", err)
		return err
	}
	s.metrics.refused.Inc()
	s.log.Warn("node refused", "method", who.Method, "remote", who.Remote, "node", evidence.Name, "error", err)
	event := audit.Event{
		Kind: audit.Admitted, Actor: who.Method, Object: "node " + evidence.Name, Outcome: "refused: " + err.Error(),
		Facts: map[string]string{"remote": who.Remote},
	}
	if recErr := s.record(ctx, event); recErr != nil {
		s.log.Error("audit log not written", "error", recErr)
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
	if evidence.KeyHash != [32]byte(keyHash) {
		return nil, fault.Deniedf("the proof is for another key than the request's")
	}
	snap := s.snap()
	if snap.banned(evidence.Name) {
		return nil, fault.Deniedf("node %s is banned", evidence.Name)
	}
	old, known := snap.members[evidence.Name]
	record, err := s.recordFor(snap, evidence, old.node, known)
	if err != nil {
		return nil, err
	}
	if err := s.freshEnough(staleNewNodes); err != nil {
		return nil, err
	}
	event := audit.Event{
		Kind: audit.Admitted, Actor: evidence.Attestor, Object: "node " + record.Name,
		Facts: map[string]string{"class": record.Class, "key": keyHash.String(), "remote": who.Remote, "version": who.Version},
	}
	if evidence.Attestor != attest.NodeKey {
		if err := s.enroll(ctx, d, event, record, old, known); err != nil {
			return nil, err
		}
	} else if err := s.record(ctx, event); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
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
func (s *Server) recordFor(snap *snapshot, e registry.Evidence, old registry.Node, known bool) (registry.Node, error) {
	now := s.cfg.Now().UTC()
	if e.Attestor == attest.NodeKey {
		if !known || old.KeyHash != registry.Hash(e.KeyHash) {
			return registry.Node{}, fault.Deniedf("node %s is not bound to this key", e.Name)
		}
		old.LastAttested = now
		return old, nil
	}
	class, _, err := snap.nodes.AdmitEvidence(e)
	if err != nil {
		return registry.Node{}, err
	}
	node := registry.Node{
		Name: e.Name, Class: class, Attestor: e.Attestor, KeyHash: e.KeyHash, Attributes: e.Attributes,
		Joined: now, LastAttested: now, Expires: now.Add(s.lifetime()),
	}
	return node, nil
}

// enroll writes the node's record and takes its token, exactly once.
func (s *Server) enroll(ctx context.Context, d *desk, event audit.Event, record registry.Node, old member, known bool) error {
	value, err := record.Marshal()
	if err != nil {
		return err
	}
	txn := registry.Txn{
		Do: []registry.Op{registry.Put(registry.NodeKey(record.Name), value)},
	}
	if known {
		txn.If = append(txn.If, registry.IfUnchanged(old.item))
	} else {
		txn.If = append(txn.If, registry.IfAbsent(registry.NodeKey(record.Name)))
	}
	if d.token != nil {
		txn.If = append(txn.If, registry.IfUnchanged(*d.token))
		txn.Do = append(txn.Do, registry.Delete(d.token.Key))
	}
	version, err := s.audited(ctx, event, func() (registry.Version, error) { return s.commit(ctx, txn) })
	if fault.Is(err, fault.Conflict) {
		return fault.Deniedf("the join token has been used, or node %s changed meanwhile: %w", record.Name, err)
	}
	if err != nil {
		return err
	}
	if known {
		// Whoever is connected under the old record is another machine.
		s.hub.cut(record.Name, fault.Deniedf("node %s was admitted anew with another key", record.Name))
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

// AddNode makes a join line: address, pin and a one-time token, of which only
// the hash is kept.
func (s *Server) AddNode(ctx context.Context, by string, req *pb.AddNodeRequest) (*pb.AddNodeResponse, error) {
	snap := s.snap()
	class := req.GetClass()
	if class == "" {
		class = s.onlyClass(snap)
	}
	if err := registry.ValidateName(req.GetName()); err != nil {
		return nil, fault.Invalidf("node name: %w", err)
	}
	if _, ok := snap.rules.NodeRules[class]; !ok {
		return nil, unknownClass(snap, class)
	}
	if snap.banned(req.GetName()) {
		return nil, fault.Hint(fault.Conflictf("node %s is banned", req.GetName()), "kith nodes ban --lift %s", req.GetName())
	}
	ttl := registry.MaxTokenTTL
	if req.GetTtl() != nil {
		ttl = req.GetTtl().AsDuration()
	}
	if ttl <= 0 || ttl > registry.MaxTokenTTL {
		return nil, fault.Invalidf("ttl: %s; more than 0s, at most %s", ttl, registry.MaxTokenTTL)
	}
	var secret [32]byte
	rand.Read(secret[:])
	now := s.cfg.Now().UTC()
	token := registry.JoinToken{Hash: registry.HashOf(secret[:]), Node: req.GetName(), Class: class, Created: now, Expires: now.Add(ttl)}
	value, err := token.Marshal()
	if err != nil {
		return nil, err
	}
	event := audit.Event{Kind: audit.Changed, Actor: by, Object: "join token for node " + token.Node, Facts: map[string]string{
		"class": class, "hash": hex.EncodeToString(token.Hash[:8]), "expires": token.Expires.Format(time.RFC3339),
	}}
	txn := registry.Txn{If: []registry.Condition{registry.IfAbsent(token.Key())}, Do: []registry.Op{registry.Put(token.Key(), value)}}
	if _, err := s.audited(ctx, event, func() (registry.Version, error) { return s.commit(ctx, txn) }); err != nil {
		return nil, err
	}
	join := s.address() + "/" + s.Pin().String() + "/" + base64.RawURLEncoding.EncodeToString(secret[:])
	return &pb.AddNodeResponse{Join: join, ExpiresUnix: token.Expires.Unix()}, nil
}

// onlyClass is the one class there is besides dev's, if there is one.
func (s *Server) onlyClass(snap *snapshot) string {
	if s.cfg.Dev {
		return devClass
	}
	if classes := snap.nodes.Classes(); len(classes) == 1 {
		return classes[0]
	}
	return ""
}

func unknownClass(snap *snapshot, class string) error {
	err := fault.NotFoundf("no node rule %q; a class is the name of one", class)
	if near := nearestName(class, snap.nodes.Classes()); near != "" {
		return fault.Hint(err, "--class %s", near)
	}
	return fault.Hint(err, "--class with one of %v", snap.nodes.Classes())
}

// nodeID is the SPIFFE ID of a node.
func nodeID(td spiffe.TrustDomain, name string) (spiffe.ID, error) {
	return spiffe.NewID(td, "/kith/node/"+name)
}
