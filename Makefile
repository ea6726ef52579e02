# bodycam: the two commands are `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TERM_COLOR ?= auto
VENV := $(CARGO_TARGET_DIR)/venv
BODYCAM := $(CARGO_TARGET_DIR)/debug/bodycam
export BODYCAM_TEST_PYTHON := $(VENV)/bin/python3
# With everything, the cluster engine included (docs/adr/0011). The same in all of these and in .ci/run: with other
# features DataFusion is built once more. `make demo`, and what is released, has no cluster.
ALL := --workspace --features cluster

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F':.*?## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: prerequisites
prerequisites: ## install what is missing (as root), or print the line that does
	@deploy/prerequisites.sh

.PHONY: build
build: prerequisites ## build everything with the profile that the tests use
	cargo build $(ALL) --all-targets

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
	@deploy/prerequisites.sh java mvn
	cargo build $(ALL) --all-targets
	cargo test $(ALL) --no-fail-fast
	$(MAKE) --no-print-directory fuzz-smoke

.PHONY: suite
MODULE ?=
suite: python ## the end-to-end tests alone, or one module of them: make suite MODULE=crash
	@deploy/prerequisites.sh java mvn
	cargo test $(ALL) --test suite -- $(MODULE)

.PHONY: lint
lint: prerequisites ## formatting, clippy with warnings denied, documentation
	cargo fmt --all --check
	cargo clippy $(ALL) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc $(ALL) --no-deps

.PHONY: vectors
vectors: ## regenerate the test vectors of every hashed thing
	BODYCAM_UPDATE=1 cargo test $(ALL) --test format
	BODYCAM_UPDATE=1 cargo test $(ALL) --lib vectors_of_the_lake

.PHONY: docs
docs: ## regenerate the generated parts of the documentation
	BODYCAM_UPDATE=1 cargo test $(ALL) --test format
	cargo build $(ALL) --bins
	$(BODYCAM) config reference > docs/configuration.md

.PHONY: bench
BENCH ?=
bench: python ## the numbers of docs/benchmarks.md (BENCH="--only point --rounds 5" to choose)
	@deploy/prerequisites.sh pgbouncer chrt java mvn
	cargo build --release -p bodycam -p bodycam-proxy -p bodycam-recorder -p bodycam-replay-tui -p bodycam-verify --bins --examples \
	  --no-default-features --features bodycam/gateway,bodycam/recorder,bodycam/reader
	cargo build --release -p bodycam-analyzer --examples
	$(VENV)/bin/python3 -m pip install --quiet --disable-pip-version-check -r tests/bench/requirements.txt
	$(VENV)/bin/python3 tests/bench/bench.py --bin $(CARGO_TARGET_DIR)/release $(BENCH)

.PHONY: bench-cluster
bench-cluster: prerequisites ## queries on one machine and on a cluster of two executors (docs/cluster.md); builds the engine once more
	cargo build --release -p bodycam-recorder --examples
	CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/cluster cargo build --release -p bodycam --bin bodycam --features cluster
	python3 tests/bench/bench.py --bin $(CARGO_TARGET_DIR)/release --cluster-bin $(CARGO_TARGET_DIR)/cluster/release --only cluster $(BENCH)

.PHONY: soak
SOAK_KILLS ?= 60
SOAK_OUTAGE_SECONDS ?= 600
soak: python ## the crash tests for long: SOAK_KILLS kills each, the broker away for SOAK_OUTAGE_SECONDS
	@deploy/prerequisites.sh java mvn
	BODYCAM_CRASH_KILLS=$(SOAK_KILLS) BODYCAM_CRASH_OUTAGE_SECONDS=$(SOAK_OUTAGE_SECONDS) \
	  cargo test $(ALL) --test suite -- crash:: kafka::gaps --test-threads=1 2>&1 | tee $(CARGO_TARGET_DIR)/soak.log; exit $${PIPESTATUS[0]}
	@printf '%s, %s\n\n' "$$(git describe --always --dirty --abbrev=12)" "$$(date -u +%F)" > docs/benchmarks/soak.txt
	@grep -E '^(crash test|test )' $(CARGO_TARGET_DIR)/soak.log >> docs/benchmarks/soak.txt

.PHONY: deny
deny: ## licences, bans and sources of all dependencies (needs cargo-deny)
	@cargo deny --version >/dev/null 2>&1 || { echo "cargo-deny is missing; install it with:  cargo install cargo-deny --locked" >&2; exit 1; }
	cargo deny check licenses bans sources

.PHONY: clean
clean: ## remove what was built
	cargo clean

FUZZ_TARGETS := frontend_frames backend_frames startup_packet http_head event_record commit
FUZZ_DIR := $(CARGO_TARGET_DIR)/fuzz
FUZZ_HOST = $(shell rustc -vV | sed -n 's/host: //p')
FUZZ_LIMITS := -max_len=4096 -timeout=20 -rss_limit_mb=2048
# Seconds a target for `make fuzz`; runs a target for `make fuzz-smoke`.
FUZZ_SECONDS ?= 20
FUZZ_RUNS ?= 10000
FUZZ_SEED ?= 1
# What cargo-fuzz passes, so that stable cargo builds targets that see their coverage.
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1

.PHONY: fuzz-smoke
fuzz-smoke: prerequisites ## run every fuzz target FUZZ_RUNS times from its seeds (part of `make test`)
	cd tests/fuzz && CARGO_TARGET_DIR=$(FUZZ_DIR) CARGO_INCREMENTAL=0 RUSTFLAGS="$(FUZZ_FLAGS)" \
	  cargo build --bins --target $(FUZZ_HOST)
	@for target in $(FUZZ_TARGETS); do \
	  corpus=$$(mktemp -d); log=$(FUZZ_DIR)/$$target.log; \
	  if $(FUZZ_DIR)/$(FUZZ_HOST)/debug/$$target -runs=$(FUZZ_RUNS) -seed=$(FUZZ_SEED) $(FUZZ_LIMITS) \
	    -artifact_prefix=$(FUZZ_DIR)/$$target- $$corpus tests/fuzz/seeds/$$target >$$log 2>&1; \
	  then echo "fuzz: $$target: $$(tail -n 1 $$log)"; rm -r $$corpus; \
	  else tail -n 40 $$log; echo "fuzz: $$target failed; seed $(FUZZ_SEED), log $$log"; exit 1; fi; \
	done

.PHONY: fuzz
fuzz: prerequisites ## run every fuzz target for FUZZ_SECONDS with cargo-fuzz (`cargo install cargo-fuzz`), on stable
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p $(FUZZ_DIR)/corpus/$$target; \
	  cargo fuzz run --fuzz-dir tests/fuzz --target-dir $(FUZZ_DIR) --sanitizer none --dev $$target \
	    $(FUZZ_DIR)/corpus/$$target tests/fuzz/seeds/$$target \
	    -- -max_total_time=$(FUZZ_SECONDS) $(FUZZ_LIMITS) -verbosity=0 || exit 1; \
	done

.PHONY: fuzz-seeds
fuzz-seeds: ## write the seeds of the fuzz targets anew, from the test vectors and our own encoders
	BODYCAM_UPDATE=1 cargo test $(ALL) --test suite -- fuzz_seeds

.PHONY: deploy-render
deploy-render: ## render the Kubernetes overlays into deploy/kubernetes/rendered (needs Go for kustomize)
	@for overlay in dev production cluster; do \
	  deploy/kubernetes/render.sh "$$(deploy/lint/kustomize.sh $(CARGO_TARGET_DIR))" $$overlay > deploy/kubernetes/rendered/$$overlay.yaml || exit 1; \
	done

.PHONY: deploy-lint
deploy-lint: prerequisites ## look at images, compose file, manifests and units with their linters (needs Go and systemd)
	@deploy/lint/lint.sh $(CARGO_TARGET_DIR)
