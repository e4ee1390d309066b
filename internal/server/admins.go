package server

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// adminEntry is an admin's record and the version it was read at.
type adminEntry struct {
	admin registry.Admin
	item  registry.Item
}

// adminID is the SPIFFE ID of an admin.
func adminID(td spiffe.TrustDomain, name string) (spiffe.ID, error) {
	return spiffe.NewID(td, "/kith/admin/"+name)
}

// Admin is the record of an admin now, from the snapshot.
func (s *Server) Admin(name string, key [32]byte) (registry.Admin, error) {
	entry, ok := s.snap().admins[name]
	if !ok || entry.admin.KeyHash != registry.Hash(key) {
		// One who was removed and one who joined again elsewhere are told the same.
		return registry.Admin{}, fault.Hint(fault.Deniedf("%s is not an admin here, or has joined again with another key", name),
			"ask an admin, or root on the server's host, for a new line: kith ids admins add %s", name)
	}
	return entry.admin, nil
}

// ListAdmins shows every admin, by name.
func (s *Server) ListAdmins(context.Context) ([]*pb.AdminInfo, error) {
	snap := s.snap()
	var out []*pb.AdminInfo
	for _, name := range slices.Sorted(maps.Keys(snap.admins)) {
		admin := snap.admins[name].admin
		info := &pb.AdminInfo{
			Name: name, Role: admin.Role.String(), JoinedUnix: unixOf(admin.Joined), AddedBy: admin.By,
			Teams:     admin.Teams,
			Connected: s.remote != nil && s.remote.Connected(name),
		}
		if id, err := adminID(snap.trustDomain, name); err == nil {
			info.SpiffeId = id.String()
		}
		out = append(out, info)
	}
	return out, nil
}

// AddAdmin makes an admin line: address, pin and a one-time token, of which only
// the hash is kept. For an admin there is, it is the way back in: with another
// key, and in the same role where none is named.
func (s *Server) AddAdmin(ctx context.Context, by string, req *pb.AddAdminRequest) (*pb.AddAdminResponse, error) {
	if s.remoteListener == nil {
		return nil, fault.Hint(fault.Conflictf("this server lets no admins in from elsewhere"),
			"server: {admin_listen: \":8444\"} in its kith.yaml, and a restart")
	}
	if err := registry.ValidateName(req.GetName()); err != nil {
		return nil, fault.Invalidf("admin name: %w", err)
	}
	known := s.snap().admins[req.GetName()].admin
	role := known.Role
	if req.GetRole() != "" || role == registry.RoleNone {
		var err error
		if role, err = registry.ParseRole(req.GetRole()); err != nil {
			return nil, fault.Hint(err, "--role viewer, --role operator or --role admin")
		}
	}
	teams, err := s.snap().teamsOf(known, role, req.GetTeams(), false)
	if err != nil {
		return nil, err
	}
	secret, created, expires, err := s.oneTime(req.GetTtl())
	if err != nil {
		return nil, err
	}
	token := registry.AdminToken{
		Hash: registry.HashOf(secret[:]), Name: req.GetName(), Role: role, Teams: teams, By: by, Created: created, Expires: expires,
	}
	value, err := token.Marshal()
	if err != nil {
		return nil, err
	}
	event := audit.Event{Kind: audit.Changed, Actor: by, Object: "admin token for " + token.Name, Facts: map[string]string{
		"role": role.String(), "teams": strings.Join(teams, ","), "hash": hex.EncodeToString(token.Hash[:8]), "expires": token.Expires.Format(time.RFC3339),
	}}
	txn := registry.Txn{If: []registry.Condition{registry.IfAbsent(token.Key())}, Do: []registry.Op{registry.Put(token.Key(), value)}}
	if _, err := s.audited(ctx, event, func() (registry.Version, error) { return s.commit(ctx, txn) }); err != nil {
		return nil, err
	}
	line := s.adminAddress() + "/" + s.Pin().String() + "/" + base64.RawURLEncoding.EncodeToString(secret[:])
	return &pb.AddAdminResponse{Join: line, ExpiresUnix: token.Expires.Unix()}, nil
}

// SetAdminRole changes what an admin may do, from their next call on.
func (s *Server) SetAdminRole(ctx context.Context, by string, req *pb.SetAdminRoleRequest) (*pb.ChangeResult, error) {
	name := req.GetName()
	role, err := registry.ParseRole(req.GetRole())
	if err != nil {
		return nil, err
	}
	entry, ok := s.snap().admins[name]
	if !ok {
		return nil, s.snap().unknownAdmin(name)
	}
	teams, err := s.snap().teamsOf(entry.admin, role, req.GetTeams(), req.GetUnbind())
	if err != nil {
		return nil, err
	}
	event := audit.Event{Kind: audit.Changed, Actor: by, Object: "role of admin " + name, Facts: map[string]string{
		"role": role.String(), "was": entry.admin.Role.String(),
		"teams": strings.Join(teams, ","), "teams_were": strings.Join(entry.admin.Teams, ","),
	}}
	entry.admin.Role, entry.admin.Teams = role, teams
	value, err := entry.admin.Marshal()
	if err != nil {
		return nil, err
	}
	txn := registry.Txn{
		If: []registry.Condition{registry.IfUnchanged(entry.item)},
		Do: []registry.Op{registry.Put(entry.item.Key, value)},
	}
	if err := s.voidTokens(ctx, name, &txn); err != nil {
		return nil, err
	}
	return s.changeAdmin(ctx, event, txn)
}

// RemoveAdmin forgets an admin and their key; their connections are cut when it
// returns.
func (s *Server) RemoveAdmin(ctx context.Context, by, name string) (*pb.ChangeResult, error) {
	snap := s.snap()
	var txn registry.Txn
	entry, ok := snap.admins[name]
	if ok {
		txn.If = append(txn.If, registry.IfUnchanged(entry.item))
		txn.Do = append(txn.Do, registry.Delete(entry.item.Key))
	} else if registry.ValidateName(name) != nil {
		return nil, snap.unknownAdmin(name)
	} else {
		txn.If = append(txn.If, registry.IfAbsent(registry.AdminKey(name)))
	}
	if err := s.voidTokens(ctx, name, &txn); err != nil {
		return nil, err
	}
	if len(txn.Do) == 0 {
		return nil, snap.unknownAdmin(name)
	}
	event := audit.Event{Kind: audit.Changed, Actor: by, Object: "remove admin " + name, Facts: map[string]string{
		"was": entry.admin.Role.String(),
	}}
	return s.changeAdmin(ctx, event, txn)
}

// voidTokens adds to txn the end of every token that was made for an admin, or
// by them: otherwise who is removed or set back could undo it.
func (s *Server) voidTokens(ctx context.Context, name string, txn *registry.Txn) error {
	id, err := adminID(s.snap().trustDomain, name)
	if err != nil {
		return fault.Invalidf("admin name: %w", err)
	}
	tokens, err := s.adminTokens(ctx, func(t registry.AdminToken) bool { return t.Name == name || t.By == id.String() })
	for _, item := range tokens {
		txn.Do = append(txn.Do, registry.Delete(item.Key))
	}
	return err
}

// changeAdmin writes what an operator wants and waits until this server acts by
// it: the snapshot that has the change also cuts connections.
func (s *Server) changeAdmin(ctx context.Context, event audit.Event, txn registry.Txn) (*pb.ChangeResult, error) {
	began := s.cfg.Now()
	version, err := s.audited(ctx, event, func() (registry.Version, error) { return s.commit(ctx, txn) })
	if fault.Is(err, fault.Conflict) {
		return nil, fault.Hint(fault.Conflictf("%s: somebody else changed it at the same moment", event.Object), "kith ids admins, and try again")
	}
	if err != nil {
		return nil, err
	}
	if err := s.arrive(ctx, version); err != nil {
		return nil, err
	}
	s.log.Info("admin changed", "change", event.Object, "by", event.Actor)
	return &pb.ChangeResult{Revision: s.snap().revision, Took: durationpb.New(s.cfg.Now().Sub(began))}, nil
}

// adminTokens reads the tokens that fit, bounded as one transaction is.
func (s *Server) adminTokens(ctx context.Context, fits func(registry.AdminToken) bool) ([]registry.Item, error) {
	limit, cancel := s.patience(ctx)
	defer cancel()
	items, _, err := s.cfg.Store.Range(limit, registry.AdminTokenPrefix)
	if err != nil {
		return nil, away(err)
	}
	items = slices.DeleteFunc(items, func(item registry.Item) bool {
		token, err := registry.ParseAdminToken(item.Value)
		return err != nil || !fits(token)
	})
	return items[:min(len(items), maxChanges)], nil
}

// sweepAdminTokens deletes tokens that nobody used in time.
func (s *Server) sweepAdminTokens(ctx context.Context) {
	now := s.cfg.Now()
	items, err := s.adminTokens(ctx, func(t registry.AdminToken) bool { return t.Expired(now) })
	if err != nil || len(items) == 0 {
		return
	}
	var txn registry.Txn
	for _, item := range items {
		txn.Do = append(txn.Do, registry.Delete(item.Key))
	}
	if _, err := s.commit(ctx, txn); err != nil {
		s.log.Debug("admin tokens not swept", "error", err)
	}
}

func (s *snapshot) unknownAdmin(name string) error {
	err := fault.NotFoundf("there is no admin %s", strings.ToValidUTF8(name, "?"))
	if near := fault.Nearest(name, slices.Sorted(maps.Keys(s.admins))); near != "" {
		return fault.Hint(err, "did you mean %s?", near)
	}
	return fault.Hint(err, "kith ids admins")
}

// admin takes an admin's record into the next snapshot.
func (b *builder) admin(e registry.Event) error {
	if b.shared && !b.copied.admins {
		b.next.admins, b.copied.admins = maps.Clone(b.next.admins), true
	}
	b.change.admins = true
	name := strings.TrimPrefix(e.Key, registry.AdminPrefix)
	delete(b.next.admins, name)
	if e.Deleted {
		return nil
	}
	admin, err := registry.ParseAdmin(e.Value)
	if err != nil {
		return err
	}
	if admin.Name != name {
		return fault.Invalidf("%s: record of admin %s", e.Key, admin.Name)
	}
	b.next.admins[name] = adminEntry{admin: admin, item: registry.Item{Key: e.Key, Value: e.Value, Version: b.versionOf(e.Key)}}
	return nil
}
