# Two commands matter: `make demo` (the main job) and `make test` (everything).
# Each installs what it lacks and says so. `make help` lists the rest.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
FUZZTIME ?= 30s
CHAOS_LIMIT ?= $(if $(CHAOS_FULL),4h,40m)
# How long faults are drawn, which makes ten minutes of the chaos suite, and from
# which seed: the same for everybody; with CHAOS_SEED= a new one each time.
export CHAOS_FOR ?= 7m
export CHAOS_SEED ?= 7

# All is compiled as bin/kith is, but for the race detector: each other way costs
# the standard library and every dependency again, minutes where no cache is warm.
export CGO_ENABLED := 0
export GOFLAGS := $(strip $(filter-out -trimpath,$(shell $(GO) env GOFLAGS)) -trimpath)
LDFLAGS := -s -w -X github.com/kith-id/kith/internal/obs.version=$(VERSION)

# The suites below test/ start this binary; they need root for namespaces and
# mounts, so the compiled test alone runs as root.
export KITH_BIN := $(CURDIR)/bin/kith
SUITE := $(GO) test -vet=off -count=1 -timeout 30m -exec $(CURDIR)/scripts/as-root

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

.PHONY: demo
demo: build ## the main job: two services that know each other, shown in seconds
	bin/kith demo

# -vet=off below: lint vets every package, with and without the suites' tags.
.PHONY: test
test: deps build lint test-generate test-darwin demo test-unit test-whole test-vectors ## everything, fuzz targets for 5 s each
	$(MAKE) test-fuzz FUZZTIME=5s
	$(MAKE) test-suites test-chaos

.PHONY: build
build: ## bin/kith, static
	@mkdir -p bin
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/kith ./cmd/kith

.PHONY: deps
deps: ## install what the tests need and this host lacks (Debian packages)
	@scripts/deps

.PHONY: test-unit
test-unit: deps ## unit tests and every CLI verb, with the race detector
	CGO_ENABLED=1 GORACE="atexit_sleep_ms=0 $${GORACE:-}" $(GO) test -vet=off -race ./... # else each package ends with a second of sleep

.PHONY: test-whole
test-whole: ## what tries fewer cases with the race detector, with all of them and without it
	$(GO) test -vet=off ./internal/adopt ./internal/ca ./internal/config ./internal/policy
	$(GO) test -vet=off -run 'Journal|TestThreatT10TokenAdmitsExactlyOnce|TestCacheIsBounded' ./internal/agent ./internal/server ./internal/workload

.PHONY: test-suites
test-suites: deps build ## hosts, attacks, parties and interop, a suite for each processor at a time
	$(SUITE) -tags hosts,attacks,parties,interop ./test/hosts ./test/interop/libraries ./test/attacks ./test/interop/opa ./test/parties ./test/interop/... # what builds for long beside what waits

.PHONY: test-parties
test-parties: deps build ## real programs of other makers behind kith
	$(SUITE) -tags parties ./test/parties/...

.PHONY: test-interop
test-interop: deps build ## real Envoys and others that speak the standards, beside kith
	$(SUITE) -tags interop ./test/interop/...

.PHONY: test-hosts
test-hosts: deps build ## two network namespaces as two hosts
	$(SUITE) -tags hosts ./test/hosts/...

.PHONY: test-attacks
test-attacks: deps build ## attacks that must fail, against real processes
	$(SUITE) -tags attacks ./test/attacks/...

.PHONY: test-vectors
test-vectors: ## published vectors: zlint, BetterTLS, Wycheproof; Vault's own JWT code (modules of their own)
	cd test/vectors && $(GO) vet ./... && $(GO) test -vet=off ./...
	cd test/vectors/vault && $(GO) vet ./... && $(GO) test -vet=off ./...

.PHONY: test-policy
test-policy: ## some ten million random decisions beside a naive evaluator
	KITH_POLICY_CHECKS=9000 $(GO) test -count=1 -timeout 30m -v -run 'Reference|Cited|Agree|Book|Fixes' ./internal/policy

.PHONY: test-chaos
test-chaos: deps build ## kill, stop, partition, full disk, EIO, clocks, under load: CHAOS_FULL=1 CHAOS_FOR=1h CHAOS_SEED=
	$(SUITE) -tags chaos -timeout $(CHAOS_LIMIT) ./test/chaos/...

.PHONY: test-generate
test-generate: deps ## the committed generated code is what `make generate` makes
	@scripts/generate --check

.PHONY: test-fuzz
test-fuzz: ## every fuzz target for FUZZTIME (30s)
	@scripts/fuzz $(FUZZTIME)

.PHONY: test-darwin
test-darwin: ## it compiles for macOS
	GOOS=darwin GOARCH=arm64 $(GO) build ./...

.PHONY: lint
lint: ## gofumpt, vet, staticcheck, govulncheck, each pinned
	@scripts/lint

.PHONY: generate
generate: deps ## write internal/pb from proto/
	@scripts/generate

.PHONY: bench
bench: build ## measure it beside its peers, in minutes; writes docs/performance.md
	@test -e /usr/lib/nginx/modules/ngx_stream_module.so || apt-get install -y -qq --no-install-recommends nginx-light libnginx-mod-stream
	cd bench && $(GO) build -o ../bin/kith-bench . && ../bin/kith-bench -kith ../bin/kith -o ../docs/performance.md

.PHONY: clean
clean: ## remove what was built here
	rm -rf bin
