# The commands of this project. `make help` lists them.
SHELL := /bin/bash
PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
FUZZ_SECONDS ?= 60
# What is named behind the goal (`make test-integration tests/test_rebase.py`), or TESTS=..., or all.
NAMED := $(filter tests/%,$(MAKECMDGOALS))
TESTS ?= $(or $(NAMED),tests)
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BINARY := $(TARGET_DIR)/release/instar
# `make package PACKAGE_BINARY=PATH` packs a program that is built already.
PACKAGE_BINARY ?=
VENV := .venv
export INSTAR_BINARY_PATH := $(abspath $(BINARY))

.DEFAULT_GOAL := instar
.PHONY: help instar demo test quick test-rust test-integration bench bench-smoke lint adversarial fuzz install uninstall package test-packages clean bootstrap

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)$$/\1\t\2/' | expand -t 20

instar: ## build target/release/instar
	@scripts/bootstrap build
	scripts/build

demo: ## build, then inspect and convert a real image next to qemu-img
	@scripts/bootstrap demo
	scripts/build
	@scripts/demo

test: ## every test: Rust, then Python under both kinds of isolation
	@scripts/bootstrap test
	@scripts/test all

quick: ## before each commit, in less than three minutes: lint, unit tests, a slice of the Python tests
	@scripts/bootstrap test
	@scripts/test quick

test-rust: ## the Rust tests
	@scripts/bootstrap build
	@scripts/test rust

test-integration: ## the Python tests; `make test-integration tests/test_x.py`: one file
	@scripts/bootstrap test
	@scripts/test integration $(TESTS)

bench: ## measure next to qemu-img; writes docs/benchmarks.md. `make bench AGAINST=PATH`: next to another build
	@scripts/bootstrap demo
	scripts/build
	python3 benches/bench.py $(if $(AGAINST),--against $(AGAINST))

bench-smoke: ## a few rows in two minutes, for every change. `make bench-smoke AGAINST=PATH` as above
	@scripts/bootstrap demo
	scripts/build
	python3 benches/bench.py --smoke $(if $(AGAINST),--against $(AGAINST))

lint: ## rustfmt, clippy, ruff, shellcheck
	@scripts/bootstrap test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(VENV)/bin/ruff check tests benches packaging scripts/summary
	shellcheck scripts/bootstrap scripts/build scripts/demo scripts/test .ci/run \
		packaging/package packaging/root packaging/instar-qemu-img/*

adversarial: ## the hostile images on both backends; what they cost goes into docs/security.md
	@scripts/bootstrap test
	scripts/build
	scripts/test integration tests/adversarial
	scripts/adversarial-report --update

fuzz: ## every format's reader, and the property tests of the request checker, for FUZZ_SECONDS each
	@scripts/bootstrap test
	FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/test fuzz
	FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz

install: ## binary, man page and completions below PREFIX (/usr/local)
	@test -x $(BINARY) || { echo "build first: make instar" >&2; exit 1; }
	install -Dm755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/instar
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -d $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(BINARY) generate man > $(DESTDIR)$(PREFIX)/share/man/man1/instar.1
	$(BINARY) generate bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/instar
	$(BINARY) generate zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_instar
	$(BINARY) generate fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/instar.fish

uninstall: ## remove what `make install` put below PREFIX
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,bin/instar share/man/man1/instar.1 share/bash-completion/completions/instar \
		share/zsh/site-functions/_instar share/fish/vendor_completions.d/instar.fish)

package: $(if $(PACKAGE_BINARY),,instar) ## deb, tarball and container image, in target/package; PACKAGE_BINARY=PATH: of that program
	packaging/package $(or $(PACKAGE_BINARY),$(BINARY))

test-packages: ## what is in target/package, and in bare Debian roots. SUITES="bookworm trixie sid"
	@test -e $(TARGET_DIR)/package/SHA256SUMS || { echo "package first: make package" >&2; exit 1; }
	PACKAGE_BINARY=$(abspath $(or $(PACKAGE_BINARY),$(BINARY))) python3 -m unittest -v packaging/test_packages.py

clean: ## remove what was built
	$(CARGO) clean
	rm -rf $(VENV) .pytest_cache .results
