// Package acme holds a real ACME CA beside the built kith: the bundle endpoint and the
// OIDC issuer get their certificates of the web from it, and the next ones in time.
package acme
