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
VENV := .venv
BIN := $(DESTDIR)$(PREFIX)/bin
SHARE := $(DESTDIR)$(PREFIX)/share
BASH_COMPLETIONS := $(SHARE)/bash-completion/completions
ZSH_COMPLETIONS := $(SHARE)/zsh/site-functions
FISH_COMPLETIONS := $(SHARE)/fish/vendor_completions.d
QEMU_IMG_LINK ?=
export INSTAR_BINARY_PATH := $(abspath $(BINARY))

.DEFAULT_GOAL := instar
.PHONY: help instar demo test quick test-rust test-integration bench bench-smoke lint adversarial fuzz install uninstall clean bootstrap

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
	$(VENV)/bin/ruff check tests benches scripts/summary
	shellcheck src/host/cli/src/completion/completion.bash scripts/bootstrap scripts/build scripts/demo scripts/test .ci/run

adversarial: ## the hostile images on both backends; what they cost goes into docs/security.md
	@scripts/bootstrap test
	scripts/build
	scripts/test integration tests/adversarial
	scripts/adversarial-report --update

fuzz: ## every format's reader, and the property tests of the request checker, for FUZZ_SECONDS each
	@scripts/bootstrap test
	FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/test fuzz
	FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz

install: ## binary, manual and completions below PREFIX (/usr/local); QEMU_IMG_LINK=1: a link qemu-img, too
	@test -x $(BINARY) || { echo "build first: make instar" >&2; exit 1; }
	@test -z "$(QEMU_IMG_LINK)" -o -L $(BIN)/qemu-img -o ! -e $(BIN)/qemu-img || \
	    { echo "$(BIN)/qemu-img is there and is no link: it is left alone, and nothing was installed" >&2; exit 1; }
	install -Dm755 $(BINARY) $(BIN)/instar
	install -d $(BASH_COMPLETIONS) $(ZSH_COMPLETIONS) $(FISH_COMPLETIONS)
	$(BINARY) generate man --all $(SHARE)/man
	$(BINARY) generate bash > $(BASH_COMPLETIONS)/instar
	$(BINARY) generate zsh > $(ZSH_COMPLETIONS)/_instar
	$(BINARY) generate fish > $(FISH_COMPLETIONS)/instar.fish
ifneq ($(QEMU_IMG_LINK),)
	ln -sfn instar $(BIN)/qemu-img
	$(BINARY) generate bash --qemu-img > $(BASH_COMPLETIONS)/qemu-img
	$(BINARY) generate zsh --qemu-img > $(ZSH_COMPLETIONS)/_qemu-img
	$(BINARY) generate fish --qemu-img > $(FISH_COMPLETIONS)/qemu-img.fish
endif

uninstall: ## remove what `make install` put below PREFIX; configuration stays
	if [ "$$(readlink $(BIN)/qemu-img)" = instar ]; then rm -f $(BIN)/qemu-img \
	    $(BASH_COMPLETIONS)/qemu-img $(ZSH_COMPLETIONS)/_qemu-img $(FISH_COMPLETIONS)/qemu-img.fish; fi
	rm -f $(BIN)/instar $(BASH_COMPLETIONS)/instar $(ZSH_COMPLETIONS)/_instar $(FISH_COMPLETIONS)/instar.fish
	rm -f $(SHARE)/man/man1/instar.1 $(SHARE)/man/man1/instar-*.1 $(SHARE)/man/man5/instar.toml.5

clean: ## remove what was built
	$(CARGO) clean
	rm -rf $(VENV) .pytest_cache .results
