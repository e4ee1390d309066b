package registry

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

// Role is what an admin may do. Each role may do all that the ones before it
// may; the zero value may do nothing.
type Role int

// The roles.
const (
	RoleNone     Role = iota
	RoleViewer        // sees everything, changes nothing
	RoleOperator      // changes services and rules, adds nodes
	RoleAdmin         // everything
)

// Roles is every role's name, the weakest first.
func Roles() []string { return []string{"viewer", "operator", "admin"} }

// ParseRole reads a role's name.
func ParseRole(name string) (Role, error) {
	for i, known := range Roles() {
		if name == known {
			return Role(i + 1), nil
		}
	}
	if name == "" {
		return RoleNone, fault.Invalidf("no role: viewer, operator or admin")
	}
	return RoleNone, fault.Invalidf("unknown role %q: viewer, operator or admin", name)
}

// String is the role's name.
func (r Role) String() string {
	if r < RoleViewer || r > RoleAdmin {
		return "none"
	}
	return Roles()[r-1]
}

// MarshalText implements encoding.TextMarshaler.
func (r Role) MarshalText() ([]byte, error) {
	if r < RoleViewer || r > RoleAdmin {
		return nil, fault.Invalidf("no role")
	}
	return []byte(r.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Role) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRole(string(text))
	return err
}

// Admin is somebody who administers from elsewhere, as the store keeps it. What
// they may do is here and not in their certificate, so that it can be taken
// away at once.
type Admin struct {
	Name    string    `json:"name"`
	Role    Role      `json:"role"`
	Teams   []string  `json:"teams,omitempty"` // an operator's, whose services alone they change; none: all
	KeyHash Hash      `json:"key"`             // SHA-256 of the admin key's SPKI, bound by the token
	Joined  time.Time `json:"joined"`
	By      string    `json:"by"` // who made the token
}

// Validate refuses a record that cannot be an admin's.
func (a Admin) Validate() error {
	if err := ValidateName(a.Name); err != nil {
		return fault.Invalidf("admin: %w", err)
	}
	if a.Role < RoleViewer || a.Role > RoleAdmin {
		return fault.Invalidf("admin %s: no role", a.Name)
	}
	if a.KeyHash == (Hash{}) {
		return fault.Invalidf("admin %s: no key", a.Name)
	}
	return checkTeams(a.Role, a.Teams)
}

// maxTeams bounds how many teams one operator is bound to.
const maxTeams = 64

// checkTeams refuses teams of anybody but an operator: a viewer changes nothing,
// and an admin is bound to nothing.
func checkTeams(role Role, teams []string) error {
	switch {
	case len(teams) == 0:
		return nil
	case role != RoleOperator:
		return fault.Hint(fault.Invalidf("role %s is bound to no team", role), "--role operator")
	case len(teams) > maxTeams:
		return fault.Invalidf("%d teams, at most %d", len(teams), maxTeams)
	}
	for i, team := range teams {
		if err := ValidateName(team); err != nil {
			return fault.Invalidf("team: %w", err)
		}
		if slices.Contains(teams[:i], team) {
			return fault.Invalidf("team %s twice", team)
		}
	}
	return nil
}

// Marshal is the record's value in the store.
func (a Admin) Marshal() ([]byte, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(a)
}

// ParseAdmin reads a record of the store.
func ParseAdmin(value []byte) (Admin, error) {
	var a Admin
	if err := parseRecord(value, &a); err != nil {
		return Admin{}, fault.Invalidf("admin record: %w", err)
	}
	return a, a.Validate()
}

// AdminToken is a one-time token that makes an admin, as the store keeps it:
// never the token, only its hash. Whoever deletes it first has used it.
type AdminToken struct {
	Hash    Hash      `json:"hash"`
	Name    string    `json:"name"` // the only admin it makes
	Role    Role      `json:"role"`
	Teams   []string  `json:"teams,omitempty"`
	By      string    `json:"by"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// Expired reports whether the token is over at now. The zero token is.
func (t AdminToken) Expired(now time.Time) bool { return !now.Before(t.Expires) }

// Key is the token's key in the store.
func (t AdminToken) Key() string { return AdminTokenKey(t.Hash.String()) }

// Validate refuses a record that cannot be a token's.
func (t AdminToken) Validate() error {
	if err := ValidateName(t.Name); err != nil {
		return fault.Invalidf("admin token: %w", err)
	}
	if t.Role < RoleViewer || t.Role > RoleAdmin {
		return fault.Invalidf("admin token: no role")
	}
	if t.Hash == (Hash{}) {
		return fault.Invalidf("admin token: no hash")
	}
	if ttl := t.Expires.Sub(t.Created); ttl <= 0 || ttl > MaxTokenTTL {
		return fault.Invalidf("admin token: lives %s; at most %s", ttl, MaxTokenTTL)
	}
	return checkTeams(t.Role, t.Teams)
}

// Marshal is the record's value in the store.
func (t AdminToken) Marshal() ([]byte, error) {
	if err := t.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(t)
}

// ParseAdminToken reads a record of the store.
func ParseAdminToken(value []byte) (AdminToken, error) {
	var t AdminToken
	if err := parseRecord(value, &t); err != nil {
		return AdminToken{}, fault.Invalidf("admin token record: %w", err)
	}
	return t, t.Validate()
}
