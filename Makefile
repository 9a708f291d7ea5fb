# `make` says what there is. `make test` is every test; `.ci/run` is what continuous integration runs.

PREFIX ?= /usr/local
DESTDIR ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
ARCH := $(shell uname -m)
TARGET := $(or $(CARGO_TARGET_DIR),target)
DIST := $(TARGET)/dist/orlop-$(VERSION)-linux-$(ARCH)
# The packages, and the programs they make: containerd finds its shims by their names.
PACKAGES := orlopd orlop orlop-shim orlop-cache-program
PROGRAMS := orlopd orlop orlop-cache containerd-shim-orlop-v1

.PHONY: help build release engine test lint fmt deny packages demo bench cache-probes critest install dist

help: ## What there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build every program for work on it
	cargo build --workspace --bins --locked

release: ## Build every program as it is shipped
	cargo build --release --locked $(PACKAGES:%=-p %)

engine: ## Build the engine alone as it is shipped, without the cache's S3 and PostgreSQL
	cargo build --release --locked -p orlopd -p orlop -p orlop-shim

packages: ## Install what tests and demo need from the distribution
	.ci/packages

test: packages ## Every test: unprivileged, examples, root
	.ci/test

lint: deny ## Formatting, clippy, licences and edges, tidiness, documentation
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo xtask tidy
	cargo xtask codegen --check
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

# The lists in deny.toml name what may be, and not all of it has to be: such remarks are switched off.
deny: ## Licences, versions and the edges between crates
	cargo deny --log-level error check -A unused-wrapper -A unmatched-skip -A unnecessary-skip bans licenses sources

fmt: ## Format the code
	cargo fmt --all

demo: packages engine ## A registry, a pull, a container, and why every byte is kept
	e2e/demo

bench: packages ## Orlop and containerd side by side, one line per figure
	e2e/bench

cache-probes: ## What other caches get wrong, asked of ours: so many right, so many wrong
	@e2e/cache-probes

critest: ## Kubernetes' conformance suite, with CRITEST=… and CRICTL=… of cri-tools 1.36
	@e2e/critest

install: release ## Install programs, unit, completions and manual below PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 755 $(PROGRAMS:%=$(TARGET)/release/%) $(DESTDIR)$(PREFIX)/bin/
	for unit in orlopd orlop-cache; do \
		sed 's,/usr/local/bin/,$(PREFIX)/bin/,' dist/$$unit.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit.service; \
	done
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(TARGET)/release/orlop man $(DESTDIR)$(PREFIX)/share/man/man1
	$(TARGET)/release/orlop completions bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/orlop
	$(TARGET)/release/orlop completions zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_orlop
	$(TARGET)/release/orlop completions fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/orlop.fish

dist: ## An archive to unpack on a node
	rm -rf -- "$(DIST)"
	$(MAKE) --no-print-directory install DESTDIR="$(DIST)" PREFIX=/usr/local
	install -m 644 LICENSE README.md CHANGELOG.md "$(DIST)/"
	tar --sort=name --owner=0 --group=0 --numeric-owner -C "$(dir $(DIST))" -czf "$(DIST).tar.gz" "$(notdir $(DIST))"
	@echo "$(DIST).tar.gz"
