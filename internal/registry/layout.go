package registry

import (
	"strings"
)

// The key layout of a trust domain's store. A prefix ends in "/" and belongs
// to one kind of record; names below it obey ValidateName.
const (
	DomainKey    = "meta/domain" // trust domain name and store epoch
	ObjectPrefix = "object/"     // applied state: object/<kind>/<name>, a kith.v1.Object
	NodePrefix   = "node/"       // admitted nodes: node/<name>, a Node
	TokenPrefix  = "token/"      // join tokens: token/<sha256 hex>, a JoinToken
	CAPrefix     = "ca/"         // sealed authorities and rotation state
	RootPrefix   = "ca/root/"    // ca/root/<key id>: a sealed root
	JWTRingKey   = "ca/jwt"      // the sealed keys for JWT-SVIDs
	BundlePrefix = "bundle/"     // of other trust domains: bundle/<trust domain>, a FederatedBundle

	AdminPrefix      = "admin/"       // admins elsewhere: admin/<name>, an Admin
	AdminTokenPrefix = "admin-token/" // their tokens: admin-token/<sha256 hex>, an AdminToken
)

// Kind names a kind of applied object, as in kith.v1.Key.
type Kind string

// The kinds of applied objects.
const (
	KindNode     Kind = "node"
	KindIdentity Kind = "identity"
	KindProvider Kind = "provider"
	KindTeam     Kind = "team"
	KindService  Kind = "service"
	KindRule     Kind = "rule"

	KindFederation Kind = "federation" // named by its trust domain
)

// Kinds is every kind, in the order in which objects are applied and listed.
func Kinds() []Kind {
	return []Kind{KindNode, KindIdentity, KindProvider, KindTeam, KindService, KindRule, KindFederation}
}

// ObjectKey is the key of an applied object.
func ObjectKey(kind Kind, name string) string { return ObjectPrefix + string(kind) + "/" + name }

// ParseObjectKey takes an object's key apart; ok is false for any other key.
func ParseObjectKey(key string) (kind Kind, name string, ok bool) {
	rest, ok := strings.CutPrefix(key, ObjectPrefix)
	if !ok {
		return "", "", false
	}
	k, name, ok := strings.Cut(rest, "/")
	if !ok || name == "" {
		return "", "", false
	}
	for _, kind := range Kinds() {
		if string(kind) == k {
			return kind, name, true
		}
	}
	return "", "", false
}

// NodeKey is the key of an admitted node's record.
func NodeKey(name string) string { return NodePrefix + name }

// TokenKey is the key of a join token, by its hash in hex.
func TokenKey(hash string) string { return TokenPrefix + hash }

// AdminKey is the key of an admin's record.
func AdminKey(name string) string { return AdminPrefix + name }

// AdminTokenKey is the key of an admin token, by its hash in hex.
func AdminTokenKey(hash string) string { return AdminTokenPrefix + hash }

// BundleKey is the key of another trust domain's bundle.
func BundleKey(trustDomain string) string { return BundlePrefix + trustDomain }

// RootKey is the key of a sealed root, by its key id.
func RootKey(id string) string { return RootPrefix + id }
