package server

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// adminTokenActor is who admits an admin, in the audit log.
const adminTokenActor = "admin_token"

// serveRemote lets admins in from elsewhere.
func (s *Server) serveRemote(ctx context.Context) error { return s.remote.Run(ctx, s.remoteListener) }

// newRemote is the face that serveRemote runs.
func (s *Server) newRemote() *api.Remote {
	return api.NewRemote(api.RemoteConfig{
		TrustDomain: s.snap().trustDomain, TLS: spiffe.ServerTLSOptional(s.source, s.cfg.Now),
		Operator: s, Admins: s, Federations: s, Log: s.log, Now: s.cfg.Now,
	})
}

// AdminAddr is where admins elsewhere connect, with the port it really got;
// empty: nowhere.
func (s *Server) AdminAddr() string {
	if s.remoteListener == nil {
		return ""
	}
	return s.remoteListener.Addr().String()
}

// adminAddress is what an admin line names: the port of the admin listener, on
// the host of join lines where the listener is on every address.
func (s *Server) adminAddress() string {
	own := s.AdminAddr()
	host, port, err := net.SplitHostPort(own)
	if err != nil {
		return own
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return own
	}
	if host, _, err = net.SplitHostPort(s.address()); err != nil {
		return own
	}
	return net.JoinHostPort(host, port)
}

// JoinAdmin makes an admin of whoever brings a token: compare and delete the
// token, write the record, in one transaction; then sign. Who is refused learns
// only that they were.
func (s *Server) JoinAdmin(ctx context.Context, who api.AdminApplicant) (*pb.AdmittedAdmin, error) {
	admitted, token, err := s.joinAdmin(ctx, who)
	if err == nil {
		s.log.Info("admin joined", "admin", admitted.GetName(), "role", admitted.GetRole(), "remote", who.Remote)
		return admitted, nil
	}
	var gone api.Away
	if errors.As(err, &gone) || ctx.Err() != nil {
		s.log.Warn("admin not joined", "remote", who.Remote, "error", err)
		return nil, err
	}
	s.log.Warn("admin refused", "remote", who.Remote, "admin", token.Name, "error", err)
	if token.Name != "" { // a real token: what anybody can send must not fill the audit log
		event := audit.Event{
			Kind: audit.Admitted, Actor: adminTokenActor, Object: "admin " + token.Name, Outcome: "refused: " + err.Error(),
			Facts: map[string]string{"remote": who.Remote},
		}
		if recErr := s.record(ctx, event); recErr != nil {
			s.log.Error("audit log not written", "error", recErr)
		}
	}
	return nil, fault.Hint(fault.Deniedf("the admin token was refused; the server's log says why"),
		"a line works once and for ten minutes; ask an admin, or root on the server's host, for another: kith ids admins add NAME")
}

func (s *Server) joinAdmin(ctx context.Context, who api.AdminApplicant) (*pb.AdmittedAdmin, registry.AdminToken, error) {
	var token registry.AdminToken
	if err := s.freshEnough(staleNewNodes); err != nil {
		return nil, token, err
	}
	keyHash, err := hashKey(who.Key)
	if err != nil {
		return nil, token, err
	}
	if err := s.clockGoesOn(); err != nil {
		return nil, token, err
	}
	if err := s.awaitWritable(ctx); err != nil {
		return nil, token, err
	}
	item, err := s.readAdminToken(ctx, who.Token)
	if err != nil {
		return nil, token, err
	}
	if token, err = registry.ParseAdminToken(item.Value); err != nil {
		return nil, token, err
	}
	now := s.cfg.Now().UTC()
	if token.Expired(now) {
		return nil, token, fault.Deniedf("admin token of %s expired at %s", token.Name, token.Expires.UTC().Format(time.RFC3339))
	}
	admin := registry.Admin{Name: token.Name, Role: token.Role, Teams: token.Teams, KeyHash: keyHash, Joined: now, By: token.By}
	value, err := admin.Marshal()
	if err != nil {
		return nil, token, err
	}
	key := registry.AdminKey(admin.Name)
	record := registry.IfAbsent(key)
	if old, ok := s.snap().admins[admin.Name]; ok {
		record = registry.IfUnchanged(old.item)
	}
	maker, err := s.makerOf(token)
	if err != nil {
		return nil, token, err
	}
	txn := registry.Txn{
		If: append([]registry.Condition{record, registry.IfUnchanged(item)}, maker...),
		Do: []registry.Op{registry.Put(key, value), registry.Delete(item.Key)},
	}
	event := audit.Event{Kind: audit.Admitted, Actor: adminTokenActor, Object: "admin " + admin.Name, Facts: map[string]string{
		"role": admin.Role.String(), "key": keyHash.String(), "remote": who.Remote, "by": admin.By,
	}}
	version, err := s.audited(ctx, event, func() (registry.Version, error) { return s.commit(ctx, txn) })
	if fault.Is(err, fault.Conflict) {
		return nil, token, fault.Deniedf("the admin token has been used, or admin %s changed meanwhile: %w", admin.Name, err)
	}
	if err != nil {
		return nil, token, err
	}
	if err := s.arrive(ctx, version); err != nil {
		return nil, token, err
	}
	admitted, err := s.issueAdmin(ctx, admin, who.Key)
	return admitted, token, err
}

func (s *Server) readAdminToken(ctx context.Context, secret [32]byte) (registry.Item, error) {
	limit, cancel := s.patience(ctx)
	defer cancel()
	item, err := s.cfg.Store.Get(limit, registry.AdminTokenKey(registry.HashOf(secret[:]).String()))
	switch {
	case fault.Is(err, fault.NotFound):
		return item, fault.Deniedf("admin token is unknown or already used")
	case err != nil && awayOf(err):
		return item, away(err)
	}
	return item, err
}

// RenewAdmin gives an admin a new SVID for the key they are bound to.
func (s *Server) RenewAdmin(ctx context.Context, name string, key crypto.PublicKey) (*pb.AdmittedAdmin, error) {
	if err := s.freshEnough(staleAll); err != nil {
		return nil, err
	}
	hash, err := hashKey(key)
	if err != nil {
		return nil, err
	}
	if _, err := s.Admin(name, hash); err != nil {
		return nil, err
	}
	return s.issueAdmin(ctx, s.snap().admins[name].admin, key)
}

// issueAdmin signs an admin SVID. The role is not in it: it is looked up for
// each call, and so can be taken away.
func (s *Server) issueAdmin(ctx context.Context, admin registry.Admin, key crypto.PublicKey) (*pb.AdmittedAdmin, error) {
	snap := s.snap()
	id, err := adminID(snap.trustDomain, admin.Name)
	if err != nil {
		return nil, fmt.Errorf("admin ID: %w", err)
	}
	chain, err := s.ca.Sign(ctx, ca.Request{
		ID: id, PublicKey: key, Requester: id.String(), Rule: "admin " + admin.Role.String(), Revision: snap.revision,
	})
	if err != nil {
		return nil, fmt.Errorf("admin SVID: %w", err)
	}
	bundles := s.bundles(snap)
	if len(bundles) == 0 {
		return nil, fmt.Errorf("admin SVID: no bundle")
	}
	return &pb.AdmittedAdmin{
		Name: admin.Name, Role: admin.Role.String(), SpiffeId: id.String(), Chain: raw(chain), Bundle: bundles[0],
	}, nil
}
