package api

import (
	"crypto/tls"
	"log/slog"
	"net"
	"testing"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

func TestEveryAdminMethodHasARole(t *testing.T) {
	for _, m := range pb.Admin_ServiceDesc.Methods {
		if _, ok := roleFor("/" + pb.Admin_ServiceDesc.ServiceName + "/" + m.MethodName); !ok {
			t.Errorf("%s has no row in roleFor, and is nobody's", m.MethodName)
		}
	}
}

func TestUnknownMethodIsNobodys(t *testing.T) {
	socket := NewAdmin(AdminConfig{Log: slog.New(slog.DiscardHandler)})
	root := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.UnixAddr{Name: "@"}, AuthInfo: peerInfo{uid: 0}})
	remote := NewRemote(RemoteConfig{TLS: &tls.Config{MinVersion: tls.VersionTLS13}, Log: slog.New(slog.DiscardHandler)})
	for _, method := range []string{"/kith.v1.Admin/New", "", "kith.v1.Admin/Status", pb.Node_Sync_FullMethodName, pb.AdminAdmission_JoinAdmin_FullMethodName} {
		if _, err := socket.door(method)(root); !fault.Is(err, fault.Denied) {
			t.Errorf("%q by root: got %v, want Denied", method, err)
		}
		if _, err := admit(t.Context(), method, Actor{Name: "x", Admin: "x", Role: registry.RoleAdmin}); !fault.Is(err, fault.Denied) {
			t.Errorf("%q by an admin: got %v, want Denied", method, err)
		}
	}
	stranger := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{}, AuthInfo: credentials.TLSInfo{}})
	if _, err := remote.door(pb.Admin_Status_FullMethodName)(stranger); err == nil {
		t.Error("a peer without a certificate was let in")
	}
	if _, err := remote.door(pb.Admin_Status_FullMethodName)(root); err == nil {
		t.Error("a unix peer was let in by the TLS face")
	}
}

func TestRolesAreOrdered(t *testing.T) {
	for role := registry.RoleNone; role <= registry.RoleAdmin; role++ {
		for need := registry.RoleNone; need <= registry.RoleAdmin; need++ {
			err := Actor{Admin: "a", Role: role}.Require(need, "this")
			if want := need != registry.RoleNone && role >= need; want != (err == nil) {
				t.Errorf("%s where %s is needed: got %v", role, need, err)
			}
		}
	}
	for _, kind := range []registry.Kind{"", "surprise", registry.KindNode, registry.KindIdentity} {
		if RoleToChange(kind) != registry.RoleAdmin {
			t.Errorf("kind %q is not for admins alone", kind)
		}
	}
}
