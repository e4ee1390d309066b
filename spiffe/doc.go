// Package spiffe holds the words of SPIFFE: trust domains, IDs, X.509-SVIDs,
// JWT-SVIDs and bundles, how they are parsed and verified, and the TLS
// configurations made of them. It issues nothing, fetches nothing and keeps no
// state.
//
// # Strictness
//
// What this package accepts is what the SPIFFE standards allow, and no more.
// Verification adds the checks crypto/x509 leaves out: a leaf that is a
// certificate authority or may sign certificates, an extended key usage with
// only one of the two purposes, an ID without a path, more than one URI name,
// weak keys, and chains too long to be honest. An SVID is verified with the
// bundle of its own trust domain and no other; a trust domain whose bundle is
// unknown or empty is not trusted at all.
//
// A JWT-SVID is read in one spelling only: compact serialization in strict
// base64url, no name twice, no header but alg, kid and typ, so that nothing in
// a token can say how it is to be verified. [ParseJWT] lists it all.
//
// # Rotation
//
// Nothing here caches. A [Source] is asked for the current SVID and bundle in
// each handshake, so a source that swaps its values rotates every listener and
// client made from it at once. Session tickets are off for the same reason: a
// resumed session would skip verification with the current bundle.
package spiffe
