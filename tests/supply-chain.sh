#!/bin/sh
# What hive is made of, with the tools that know: licences, bans, sources and advisories (cargo-deny), dependencies that nobody uses
# (cargo-machete), and an inventory (cargo-cyclonedx). A tool that is missing is installed from crates.io, at the version named here.
# Nothing is skipped in silence: what could not be looked at is said at the end, and counts as a failure unless it is the one thing that
# needs more than crates.io, the database of advisories.
#
#   tests/supply-chain.sh check      tests/supply-chain.sh sbom FILE

set -eu

cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
tools=${HIVE_TOOLS:-target/tools}
PATH="$PWD/$tools/bin:$PATH"
export PATH

# Makes sure that a cargo sub-command is there.
need() {
	command -v "cargo-$1" >/dev/null 2>&1 && return 0
	echo "installing cargo-$1 $2 into $tools (once; this takes minutes)"
	$cargo install --quiet --locked --root "$tools" "cargo-$1" --version "$2" || {
		echo "cargo-$1 $2 could not be installed: without it nothing is known, so this fails" >&2
		exit 1
	}
}

check() {
	need deny 0.20.2
	need machete 0.9.2
	echo "licences, bans, sources"
	cargo-deny --locked check licenses bans sources
	echo "dependencies that nobody uses"
	cargo-machete
	echo "advisories"
	if fetched=$(cargo-deny fetch db 2>&1); then
		cargo-deny --locked check --disable-fetch advisories
		echo "supply chain: good"
	else
		echo "$fetched" | tail -3 >&2
		echo "supply chain: good as far as it was looked at. ADVISORIES WERE NOT CHECKED: their database could not be fetched." >&2
		echo "Run this again where it can be, before a release." >&2
	fi
}

sbom() {
	need cyclonedx 0.5.9
	# One file for the program, with what it is built of on this kind of machine. No time and no serial: the same sources give the same file.
	SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
	export SOURCE_DATE_EPOCH
	cargo-cyclonedx cyclonedx --format json --spec-version 1.5 --describe binaries --override-filename hive-sbom
	mkdir -p "$(dirname "$1")"
	mv hive-sbom.json "$1"
	echo "$1: $(grep -c '"type": "library"' "$1") components"
}

case ${1:-} in
check) check ;;
sbom) sbom "${2:-target/hive.cdx.json}" ;;
*)
	echo "usage: $0 check | sbom [FILE]" >&2
	exit 2
	;;
esac
