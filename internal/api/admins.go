package api

import (
	"context"
	"crypto"
	"errors"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

// AdminApplicant is a peer that brings an admin token; nothing is proven but
// the possession of Key.
type AdminApplicant struct {
	Token  [32]byte
	Key    crypto.PublicKey
	Remote string
}

// Admins keeps those who administer from elsewhere. Every method is safe for
// concurrent use; by names the caller for the audit log.
type Admins interface {
	// Admin is the record of the admin who is bound to this key (SHA-256 of its
	// SPKI), and so what they may do; anybody else is a Denied error. It is asked
	// before every call and must not block.
	Admin(name string, key [32]byte) (registry.Admin, error)
	// JoinAdmin uses the token up. What it says to a refused peer must not tell
	// why.
	JoinAdmin(ctx context.Context, who AdminApplicant) (*pb.AdmittedAdmin, error)
	// RenewAdmin gives the admin a new SVID for its bound key.
	RenewAdmin(ctx context.Context, name string, key crypto.PublicKey) (*pb.AdmittedAdmin, error)
	ListAdmins(ctx context.Context) ([]*pb.AdminInfo, error)
	AddAdmin(ctx context.Context, by string, req *pb.AddAdminRequest) (*pb.AddAdminResponse, error)
	SetAdminRole(ctx context.Context, by string, req *pb.SetAdminRoleRequest) (*pb.ChangeResult, error)
	RemoveAdmin(ctx context.Context, by, name string) (*pb.ChangeResult, error)
}

// ListAdmins shows every admin.
func (a *admin) ListAdmins(ctx context.Context, _ *pb.ListAdminsRequest) (*pb.ListAdminsResponse, error) {
	admins, err := a.admins.ListAdmins(ctx)
	return &pb.ListAdminsResponse{Admins: admins}, err
}

// AddAdmin makes an admin line.
func (a *admin) AddAdmin(ctx context.Context, req *pb.AddAdminRequest) (*pb.AddAdminResponse, error) {
	return a.admins.AddAdmin(ctx, by(ctx), req)
}

// SetAdminRole changes what an admin may do.
func (a *admin) SetAdminRole(ctx context.Context, req *pb.SetAdminRoleRequest) (*pb.ChangeResult, error) {
	return a.admins.SetAdminRole(ctx, by(ctx), req)
}

// RemoveAdmin forgets an admin. Nobody removes themselves: the answer would go
// down with the connection, and the last admin would lock everybody out.
func (a *admin) RemoveAdmin(ctx context.Context, req *pb.RemoveAdminRequest) (*pb.ChangeResult, error) {
	if own := actorOf(ctx).Admin; own != "" && own == req.GetName() {
		return nil, fault.Hint(fault.Conflictf("%s cannot remove itself", own),
			"another admin can, or root on the server's host: kith ids admins remove %s", own)
	}
	return a.admins.RemoveAdmin(ctx, by(ctx), req.GetName())
}

// RenewAdmin gives the caller a new SVID.
func (a *admin) RenewAdmin(ctx context.Context, req *pb.RenewAdminRequest) (*pb.AdmittedAdmin, error) {
	name := actorOf(ctx).Admin
	if name == "" {
		return nil, fault.Deniedf("only an admin SVID is renewed; on the admin socket there is none")
	}
	key, err := keyOf(req.GetCsr())
	if err != nil {
		return nil, err
	}
	return a.admins.RenewAdmin(ctx, name, key)
}

type adminAdmission struct {
	pb.UnimplementedAdminAdmissionServer
	r *Remote
}

// JoinAdmin makes an admin of whoever brings a token.
func (a *adminAdmission) JoinAdmin(ctx context.Context, req *pb.JoinAdminRequest) (*pb.AdmittedAdmin, error) {
	remote := remoteOf(ctx)
	if !a.r.limiter.allow(remote) {
		return nil, fault.Hint(Away{errors.New("too many admins join at the moment")}, "try again in a few seconds")
	}
	if len(req.GetToken()) != 32 {
		return nil, fault.Invalidf("admin token of %d bytes", len(req.GetToken()))
	}
	key, err := keyOf(req.GetCsr())
	if err != nil {
		return nil, err
	}
	return a.r.cfg.Admins.JoinAdmin(ctx, AdminApplicant{Token: [32]byte(req.GetToken()), Key: key, Remote: remote.String()})
}
