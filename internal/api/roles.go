package api

import (
	"context"
	"path"
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/registry"
)

// Actor is an authenticated operator. The zero Actor may do nothing.
type Actor struct {
	Name  string // for the audit log: a SPIFFE ID, or uid:N on the admin socket
	Admin string // name of the admin; empty on the admin socket
	Role  registry.Role
	Teams []string // whose services and rules alone an operator changes; none: all
}

// Require refuses an actor whose role is below the one that what needs.
func (a Actor) Require(role registry.Role, what string) error {
	if a.Role >= role && role > registry.RoleNone {
		return nil
	}
	err := fault.Deniedf("%s needs the role %s, and %s is %s", what, role, a.Admin, a.Role)
	return fault.Hint(err, "an admin can change that: kith ids admins role %s %s", a.Admin, role)
}

// Writer is what of services and rules is the actor's to change.
func (a Actor) Writer() policy.Writer {
	return policy.Writer{Platform: a.Role >= registry.RoleAdmin, Teams: a.Teams}
}

// RequireUnbound refuses an operator who is bound to a team what reaches beyond
// every team's services.
func (a Actor) RequireUnbound(what string) error {
	if len(a.Teams) == 0 {
		return nil
	}
	err := fault.Deniedf("%s is not for operators of a team, and %s is bound to %s", what, a.Admin, strings.Join(a.Teams, ", "))
	return fault.Hint(err, "ask an admin; one can also unbind you: kith ids admins role %s operator --every-service", a.Admin)
}

// RoleToChange is the role that changing an object of a kind needs: who may
// say what is a service and who may call it need not be able to say who is who,
// and who signs for end users is of the latter kind.
func RoleToChange(kind registry.Kind) registry.Role {
	switch kind {
	case registry.KindService, registry.KindRule:
		return registry.RoleOperator
	default:
		return registry.RoleAdmin
	}
}

// roleFor is the whole table of which role each method of Admin needs; a method
// that is not in it is nobody's.
func roleFor(method string) (registry.Role, bool) {
	switch method {
	case pb.Admin_List_FullMethodName, pb.Admin_ListNodes_FullMethodName, pb.Admin_ListIdentities_FullMethodName,
		pb.Admin_Why_FullMethodName, pb.Admin_Test_FullMethodName, pb.Admin_Flows_FullMethodName, pb.Admin_Status_FullMethodName, pb.Admin_Watch_FullMethodName,
		pb.Admin_Apply_FullMethodName, // a dry run; what it really changes is looked at by mayApply
		pb.Admin_RenewAdmin_FullMethodName,
		pb.FederationAdmin_ListFederations_FullMethodName, pb.FederationAdmin_ShowBundle_FullMethodName:
		return registry.RoleViewer, true
	case pb.Admin_AddNode_FullMethodName, pb.FederationAdmin_RefreshFederation_FullMethodName:
		return registry.RoleOperator, true
	case pb.Admin_BanNode_FullMethodName, pb.Admin_RemoveNode_FullMethodName,
		pb.Admin_ListAdmins_FullMethodName, pb.Admin_AddAdmin_FullMethodName,
		pb.Admin_SetAdminRole_FullMethodName, pb.Admin_RemoveAdmin_FullMethodName:
		return registry.RoleAdmin, true
	default:
		return registry.RoleNone, false
	}
}

// admit puts the actor into the context if the method is for its role.
func admit(ctx context.Context, method string, actor Actor) (context.Context, error) {
	role, ok := roleFor(method)
	if !ok {
		return ctx, fault.Deniedf("%s is not served here", method)
	}
	if err := actor.Require(role, path.Base(method)); err != nil {
		return ctx, err
	}
	if method == pb.Admin_AddNode_FullMethodName { // a node can mint every ID of its class
		if err := actor.RequireUnbound(path.Base(method)); err != nil {
			return ctx, err
		}
	}
	return context.WithValue(ctx, actorKey{}, actor), nil
}

// ActorOf is whose call a change is made for; the zero Actor for what the server
// does by itself.
func ActorOf(ctx context.Context) Actor { return actorOf(ctx) }

type actorKey struct{}

// actorOf is who admit let in.
func actorOf(ctx context.Context) Actor {
	actor, _ := ctx.Value(actorKey{}).(Actor)
	return actor
}

// mayApply looks at what a request names. What it changes besides, by prune, is
// known only to the plan; the Operator asks Require again for each change.
func mayApply(actor Actor, req *pb.ApplyRequest) error {
	if req.GetDryRun() {
		return nil
	}
	if err := actor.Require(registry.RoleOperator, "a change"); err != nil {
		return err
	}
	for _, object := range req.GetPut() {
		kind := registry.KindRule
		switch object.GetKind().(type) {
		case *pb.Object_Rule:
		case *pb.Object_Service:
			kind = registry.KindService
		case *pb.Object_IdentityRule:
			kind = registry.KindIdentity
		case *pb.Object_Provider:
			kind = registry.KindProvider
		case *pb.Object_Team:
			kind = registry.KindTeam
		case *pb.Object_NodeRule:
			kind = registry.KindNode
		case *pb.Object_Federation:
			kind = registry.KindFederation
		default:
			return fault.Invalidf("object of a kind this version does not know")
		}
		if err := actor.Require(RoleToChange(kind), "a change of "+kindWord(kind)); err != nil {
			return err
		}
	}
	for _, key := range req.GetDelete() {
		kind := registry.Kind(key.GetKind())
		if err := actor.Require(RoleToChange(kind), "a change of "+kindWord(kind)); err != nil {
			return err
		}
	}
	return nil
}

// kindWord is what people call the objects of a kind.
func kindWord(kind registry.Kind) string {
	switch kind {
	case registry.KindNode:
		return "node rules"
	case registry.KindIdentity:
		return "identity rules"
	case registry.KindProvider:
		return "providers"
	case registry.KindTeam:
		return "teams"
	case registry.KindService:
		return "services"
	case registry.KindRule:
		return "rules"
	case registry.KindFederation:
		return "federation"
	default:
		return "objects of an unknown kind"
	}
}
