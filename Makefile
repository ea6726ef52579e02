# bodycam: the two commands are `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TERM_COLOR ?= auto
VENV := $(CARGO_TARGET_DIR)/venv
BODYCAM := $(CARGO_TARGET_DIR)/debug/bodycam
export BODYCAM_TEST_PYTHON := $(VENV)/bin/python3

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F':.*?## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: prerequisites
prerequisites: ## install what is missing (as root), or print the line that does
	@deploy/prerequisites.sh

.PHONY: build
build: prerequisites ## build everything with the profile that the tests use
	cargo build --workspace --all-targets

.PHONY: demo
demo: prerequisites ## show the whole pipeline on a throw-away PostgreSQL and a small local internet
	cargo build --workspace --bins
	$(BODYCAM) demo

.PHONY: python
python: prerequisites
	@test -x $(VENV)/bin/python3 || python3 -m venv $(VENV)
	@$(VENV)/bin/python3 -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt

.PHONY: test
test: python ## unit, property and end-to-end tests against real servers
	cargo build --workspace --all-targets
	cargo test --workspace --no-fail-fast

.PHONY: lint
lint: prerequisites ## formatting, clippy with warnings denied, documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

.PHONY: vectors
vectors: ## regenerate the test vectors of every hashed thing
	BODYCAM_UPDATE=1 cargo test --workspace vectors_are_current

.PHONY: docs
docs: ## regenerate the generated parts of the documentation
	BODYCAM_UPDATE=1 cargo test --workspace generated_docs_are_current

.PHONY: deny
deny: ## licences, bans and sources of all dependencies (needs cargo-deny)
	cargo deny check licenses bans sources

.PHONY: clean
clean: ## remove what was built
	cargo clean
