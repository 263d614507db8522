#!/bin/bash
# Runs every fuzz target for SECONDS each: guided by coverage where libFuzzer can be built, else with random mutations.
#   tests/fuzz.sh SECONDS [FILTER]
# libFuzzer needs a C++ compiler. Its instrumentation is passed to the stable compiler, without sanitizers, into target/fuzz.
# What it finds is kept in target/fuzz/corpus and crashes in target/fuzz/crashes; a crash becomes a file of tests/corpora.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60} filter=${2:-fuzz::}
cargo=${CARGO:-cargo}

run_random() {
	echo "random mutations of tests/corpora, ${seconds} s for each target"
	BOLERO_RANDOM_TEST_TIME_MS=$((seconds * 1000)) $cargo test --locked --lib -- "$filter" --nocapture --test-threads=2
}

if [ "${FUZZ_RANDOM:-}" ] || ! command -v c++ >/dev/null 2>&1; then
	run_random
	exit
fi

flags="--cfg fuzzing --cfg fuzzing_libfuzzer -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1 -Cpasses=sancov-module"
for flag in inline-8bit-counters level=4 pc-table trace-compares; do
	flags="$flags -Cllvm-args=-sanitizer-coverage-$flag"
done
# With a target named, the flags are not for build scripts and macros.
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="$flags" BOLERO_FUZZER=libfuzzer CARGO_TARGET_DIR=target/fuzz
program=$($cargo test --locked --lib --no-run --target "$host" --message-format=json-render-diagnostics | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
unset RUSTFLAGS
failed=0
for target in $("$program" "$filter" --list 2>/dev/null | sed -n 's/: test$//p'); do
	name=${target//::/_}
	corpus=target/fuzz/corpus/$name crashes=target/fuzz/crashes/$name
	mkdir -p "$corpus" "$crashes"
	echo "== $target: ${seconds} s, guided by coverage"
	FUZZ_CORPUS="$corpus" BOLERO_TEST_NAME="$target" BOLERO_LIBTEST_HARNESS=1 \
		BOLERO_LIBFUZZER_ARGS="$corpus $crashes -artifact_prefix=$crashes/ -timeout=20 -rss_limit_mb=4096 -max_len=8192 -max_total_time=$seconds" \
		"$program" "$target" --exact --nocapture --test-threads=1 >"target/fuzz/$name.log" 2>&1 || { echo "FAILED: target/fuzz/$name.log"; failed=1; }
	grep -E '^#[0-9]+.*(INITED|DONE)' "target/fuzz/$name.log" || tail -3 "target/fuzz/$name.log"
done
exit $failed
