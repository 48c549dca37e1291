# shoal: `make demo` shows it, `make test` checks it, `make install` installs it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PREFIX ?= /usr/local
DESTDIR ?=
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
PROFILE ?= default
SECONDS_EACH ?= 60
PROGRAMS := shoal-manager shoal-agent shoalctl

.PHONY: help
help: ## Show this help
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

.PHONY: setup
setup: ## Install the Debian packages that building and testing need
	@deploy/setup.sh

.PHONY: build
build: setup ## Build the three programs (debug)
	cargo build --locked --workspace --bins

.PHONY: demo
demo: build ## Three hosts on this machine run a stack; KEEP=1 leaves them up
	@TARGET_DIR="$(TARGET)/debug" KEEP="$(KEEP)" deploy/lab/demo.sh

.PHONY: test
test: ## All tests: unit, property, contract, simulation, end to end
	@deploy/setup.sh tests nextest
	cargo build --locked --workspace --bins
	# One more than there are cores: most of what takes long waits for something.
	cargo nextest run --locked --workspace --profile $(PROFILE) --test-threads $$(($$(nproc) + 1))

.PHONY: fuzz
fuzz: ## Unknown inputs for whatever reads them, a minute each (SECONDS_EACH=N); see tests/tests/fuzz/main.rs
	@deploy/setup.sh tests nextest
	SHOAL_FUZZ_SECONDS="$(SECONDS_EACH)" cargo nextest run --locked --package shoal-tests \
		--test fuzz --profile fuzz --success-output final

.PHONY: test-vm
test-vm: ## On Debian's kernel (its WireGuard, cgroup v2 alone) in a virtual machine: SUITES="tunnel network"
	@deploy/setup.sh tests
	cargo build --locked --workspace --bins
	TARGET_DIR="$(TARGET)" tests/vm/run.sh $(SUITES)

.PHONY: test-docker
test-docker: ## Beside Debian's Docker and a firewall on the same host, which it installs
	@deploy/setup.sh tests docker nextest
	cargo build --locked --workspace --bins
	cargo nextest run --locked --package shoal-tests --test e2e --profile docker

.PHONY: verify
verify: ## Formatting, lints, docs, licences; writes nothing
	@deploy/setup.sh deny
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
	cargo deny --locked check bans licenses sources
	tests/walls.sh

.PHONY: fix
fix: ## Format, and apply what clippy can fix
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

.PHONY: release
release: setup ## Build the three programs, optimised
	cargo build --locked --release --workspace --bins

.PHONY: bench
bench: release ## Measure against the peers (crun, runc, Docker); see docs/performance.md
	tests/bench/run.sh

.PHONY: install
install: release ## Install programs, systemd unit and completions (PREFIX, DESTDIR)
	PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" TARGET_DIR="$(TARGET)/release" deploy/install.sh

.PHONY: uninstall
uninstall: ## Remove what `make install` installed; keeps /var/lib/shoal
	PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" deploy/install.sh --remove
