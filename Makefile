# `make` alone says what there is. Needs Rust (see `rust-version` in Cargo.toml) and a C compiler for its linker.

SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo check test simulate bench

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: ## count 80,789 real flights on nodes that join, leave, are killed and hang meanwhile, and compare with a plain loop; with STORE=postgres they share a private server (installed where missing), which is restarted, and the killed are gone for good
	@$(if $(filter postgres,$(STORE)),bash tools/postgres.sh)
	cargo run --release -p entity-runtime-examples --bin flights -- demo --nodes 3 $(if $(filter postgres,$(STORE)),--postgres)

check: ## formatting, lints, documentation, and licences where cargo-deny is installed
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check licenses bans sources; \
	else echo "skipped: licences, bans and sources (cargo-deny is not installed)"; fi

test: ## every test: units, docs, compile errors, 5,000 simulated seeds, the examples killed for real, private PostgreSQL servers (installed where missing)
	@bash tools/postgres.sh
	cargo test --workspace

simulate: ## one simulated run, exactly again from its seed: make simulate SEED=42, or of several nodes with CLUSTER=yes, MOVING=yes where shards move, STORM=yes where nodes come and go, or SHARED=yes where they share a store; the last line is the trace's hash
	@cargo run --release -p entity-runtime-tests --bin simulate -- --seed $(SEED) $(if $(CLUSTER),--cluster) $(if $(MOVING),--moving) $(if $(STORM),--storm) $(if $(SHARED),--shared)

bench: ## measure this machine: throughput, latency, memory, recovery, beside its bare disk
	cargo run --release -p entity-runtime-examples --bin bench
	cargo bench -p entity-runtime
