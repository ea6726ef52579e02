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
	BODYCAM_UPDATE=1 cargo test --workspace --test format

.PHONY: docs
docs: ## regenerate the generated parts of the documentation
	BODYCAM_UPDATE=1 cargo test --workspace --test format
	cargo build --workspace --bins
	$(BODYCAM) config reference > docs/configuration.md

.PHONY: bench
BENCH ?=
bench: ## the numbers of docs/benchmarks.md (BENCH="--only point --rounds 5" to choose)
	@deploy/prerequisites.sh pgbouncer chrt
	cargo build --release --bin bodycam --no-default-features --features gateway,recorder,reader
	cargo build --release -p bodycam-proxy -p bodycam-recorder -p bodycam-replay-tui --examples
	python3 tests/bench/bench.py --bin $(CARGO_TARGET_DIR)/release $(BENCH)

.PHONY: deny
deny: ## licences, bans and sources of all dependencies (needs cargo-deny)
	cargo deny check licenses bans sources

.PHONY: clean
clean: ## remove what was built
	cargo clean

FUZZ_TARGETS := frontend_frames backend_frames startup_packet http_head event_record commit
FUZZ_SECONDS ?= 5

.PHONY: fuzz
fuzz: prerequisites ## run every fuzz target for FUZZ_SECONDS (stable toolchain, no sanitizer)
	cd tests/fuzz && CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/fuzz \
	  RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Ccodegen-units=1" \
	  cargo build --target $$(rustc -vV | sed -n 's/host: //p')
	@for target in $(FUZZ_TARGETS); do \
	  echo "fuzz: $$target"; mkdir -p $(CARGO_TARGET_DIR)/fuzz/corpus/$$target; \
	  $(CARGO_TARGET_DIR)/fuzz/$$(rustc -vV | sed -n 's/host: //p')/debug/$$target \
	    -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048 -max_len=4096 -verbosity=0 -print_final_stats=0 \
	    -artifact_prefix=$(CARGO_TARGET_DIR)/fuzz/$$target- $(CARGO_TARGET_DIR)/fuzz/corpus/$$target || exit 1; \
	done
