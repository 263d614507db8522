# make try: a hive on this machine in one command.  make test: everything that has to hold.  make help: the rest.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
PROGRAM = target/release/hive

.PHONY: help build try test test-all sim prove-the-proof fuzz bench bench-backup supply-chain sbom install uninstall lint fmt

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile

build: ## the program with its dashboard, optimised; needs npm, or HIVE_WEB_DIST
	@tests/deps.sh build
	$(CARGO) build --release --locked

try: ## a hive of three on this machine, a real package, a lost coordinator
	@tests/deps.sh try
	$(CARGO) build --release --locked
	./$(PROGRAM) try

# The engine alone first: it is done in seconds and proves that it needs no adapter.
test: ## every test, with lints, as root where hosts are booted
	@tests/deps.sh test
	$(CARGO) fmt --check
	$(CARGO) test --locked --no-default-features
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		echo '$(CARGO) nextest run --locked'; exec $(CARGO) nextest run --locked --no-fail-fast; \
	else \
		echo '$(CARGO) test --locked'; exec $(CARGO) test --locked --no-fail-fast -- --test-threads=2; \
	fi
	@echo 'figures, short form; measured again before a miss counts, as the machine may be busy'
	$(CARGO) bench --locked --profile dev --bench figures -- --short || $(CARGO) bench --locked --profile dev --bench figures -- --short
	$(CARGO) bench --locked --profile dev --no-default-features --bench planner -- --short

test-all: ## also the tests that .config/nextest.toml leaves out of `make test`, when there are any
	@tests/deps.sh test
	$(CARGO) nextest run --locked --no-fail-fast --profile all

# SEEDS=10000 FROM=1 for many; SEED=17 repeats one run and tells of each step, KEEP=0,3 leaves out all other actions. What was
# found so far: tests/README.md.
SEEDS ?= 1000
FROM ?= 100000
sim: ## hives in virtual time under faults, SEEDS=1000 of them
ifdef SEED
	SIM_SEED=$(SEED) $(if $(KEEP),SIM_KEEP=$(KEEP)) $(CARGO) test --locked --no-default-features --test sim one_seed -- --ignored --nocapture
else
	SIM_SEEDS=$(SEEDS) SIM_FROM=$(FROM) $(CARGO) test --locked --release --no-default-features --test sim many_seeds -- --ignored --nocapture
endif

prove-the-proof: ## break the engine on purpose, one way after the other; each has to be found
	tests/prove.sh

# FILTER=swim for some of them. Guided by coverage where a C++ compiler is at hand, else by chance; FUZZ_RANDOM=1 asks for that.
SECONDS ?= 60
FILTER ?= fuzz::
fuzz: ## every fuzz target for SECONDS=60
	tests/fuzz.sh $(SECONDS) $(FILTER)

# BENCH='--only start' for one of them, BENCH=--list for their names. Agents run in network namespaces, hence root.
bench: ## the figures, measured on this machine in 20 minutes, as root
	@tests/deps.sh try
	$(CARGO) bench --locked --bench figures -- $(BENCH)
	$(CARGO) bench --locked --no-default-features --bench planner

bench-backup: ## a state of 1 GiB: backup, restore and db check, with times and memory; a minute, and 4 GiB of disk
	$(CARGO) test --locked --test state_dir -- --ignored --nocapture one_gibibyte

supply-chain: ## licences, bans, sources, advisories and unused dependencies, with cargo-deny and cargo-machete
	tests/supply-chain.sh check

# SBOM=FILE names another file.
SBOM ?= target/hive.cdx.json
sbom: ## what the program is made of, as CycloneDX, in target/hive.cdx.json
	tests/supply-chain.sh sbom "$(SBOM)"

lint: ## formatting and lints
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

fmt: ## format the sources
	$(CARGO) fmt

install: ## copy program and units below DESTDIR (install.sh also starts them)
	@test -x $(PROGRAM) || { echo 'run first: make build' >&2; exit 1; }
	./install.sh --files-only --destdir "$(DESTDIR)" --prefix "$(PREFIX)"

uninstall: ## remove what install has copied; configuration and state stay
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl disable --now hive.service hive-helper.service || true; fi
	@if [ -z "$(DESTDIR)" ] && [ -d /run/openrc ]; then rc-update -a del hive; rc-update -a del hive-helper; rc-service hive stop; rc-service hive-helper stop; true; fi
	rm -f "$(DESTDIR)$(PREFIX)/bin/hive" "$(DESTDIR)/etc/init.d/hive" "$(DESTDIR)/etc/init.d/hive-helper"
	for name in hive hive-helper; do rm -f "$(DESTDIR)/usr/local/lib/systemd/system/$$name.service" "$(DESTDIR)/usr/lib/systemd/system/$$name.service"; done
