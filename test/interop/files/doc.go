// Package files holds real nginx, Caddy, Traefik and HAProxy beside the built kith, with
// certificates in files and decisions over HTTP, as docs/files.md says.
package files
