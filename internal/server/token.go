package server

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

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
	secret, created, expires, err := s.oneTime(req.GetTtl())
	if err != nil {
		return nil, err
	}
	token := registry.JoinToken{Hash: registry.HashOf(secret[:]), Node: req.GetName(), Class: class, Created: created, Expires: expires}
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

// oneTime is a new secret of a join line, and from when until when it counts: for
// ttl, or for as long as there is where none is asked for.
func (s *Server) oneTime(asked *durationpb.Duration) (secret [32]byte, created, expires time.Time, err error) {
	ttl := registry.MaxTokenTTL
	if asked != nil {
		if err := asked.CheckValid(); err != nil {
			return secret, created, expires, fault.Invalidf("ttl: %w", err)
		}
		ttl = asked.AsDuration()
	}
	if ttl <= 0 || ttl > registry.MaxTokenTTL {
		return secret, created, expires, fault.Invalidf("ttl: %s; more than 0s, at most %s", ttl, registry.MaxTokenTTL)
	}
	rand.Read(secret[:])
	created = s.cfg.Now().UTC()
	return secret, created, created.Add(ttl), nil
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
	if near := fault.Nearest(class, snap.nodes.Classes()); near != "" {
		return fault.Hint(err, "--class %s", near)
	}
	return fault.Hint(err, "--class with one of %v", snap.nodes.Classes())
}

// sweepTokens deletes tokens that nobody used in time.
func (s *Server) sweepTokens(ctx context.Context) {
	items, _, err := s.cfg.Store.Range(ctx, registry.TokenPrefix)
	if err != nil {
		s.log.Debug("join tokens not swept", "error", err)
		return
	}
	for _, item := range items {
		token, err := registry.ParseJoinToken(item.Value)
		if err != nil || !token.Expired(s.cfg.Now()) {
			continue
		}
		txn := registry.Txn{If: []registry.Condition{registry.IfUnchanged(item)}, Do: []registry.Op{registry.Delete(item.Key)}}
		if _, err := s.commit(ctx, txn); err != nil && !fault.Is(err, fault.Conflict) {
			s.log.Debug("join tokens not swept", "error", err)
			return
		}
	}
}
