// Package acme holds a real ACME CA beside the built kith: the bundle endpoint
// gets its certificate of the web from it, and the next one when that ends.
package acme
