#!/bin/sh
# Breaks the code on purpose, one planted bug of tests/mutants at a time in a copy of the tree, and shows which check finds it.
# Those of tests/mutants/adapters are in what touches disks and networks; finding them needs the whole program.
# Fails when one survives, when a patch no longer applies, or when the checks fail without any bug.
#
#   tests/prove.sh                 all of them
#   tests/prove.sh cap hash        those whose names contain one of these words
#
# PROVE_BASELINE=no leaves out the run without a bug; PROVE_TARGET names another directory for what is built.
# Checks, in this order: the simulator (PROVE_SEEDS runs, default 200), then every other test of the engine. For adapters: crash images
# and failing devices (tests/storage.rs), then Raft under faults (tests/raft.rs).
set -eu
cd "$(dirname "$0")/.."
here=$PWD
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT INT TERM
seeds=${PROVE_SEEDS:-200}
cargo=${CARGO:-cargo}

# What is committed and what is being worked on, without what git ignores.
git ls-files -z --cached --others --exclude-standard | tar cf - --null -T - | tar xf - -C "$copy"
cd "$copy"
# Kept, so that what others wrote is built once.
export CARGO_TARGET_DIR="${PROVE_TARGET:-$here/target/prove}" RUST_BACKTRACE=0
tests='--locked --no-default-features'
others=$(ls tests/engine_*.rs tests/properties.rs tests/inherited_bugs.rs tests/shipped_policies.rs |
    sed -n '/engine_support/d; s|tests/\(.*\)\.rs|--test \1|p' | tr '\n' ' ')

# Of a log of libtest: what failed first.
first_failed() {
    found=$(sed -n 's/^test \([^ ]*\) .*FAILED$/\1/p' "$1" | head -n 1)
    echo "${found:-ended otherwise}"
}

# The same for a bug in an adapter.
check_adapter() {
    if ! $cargo test --locked --test storage --test raft --no-run >"$copy/build.log" 2>&1; then
        echo 'BUILD'
        return
    fi
    for name_of_test in storage raft; do
        if ! timeout 1800 $cargo test --locked --test $name_of_test >"$copy/tests.log" 2>&1; then
            echo "$name_of_test: $(first_failed "$copy/tests.log")"
            return
        fi
    done
}

# Prints which check fails, or nothing.
check() {
    if ! $cargo test $tests --test sim --no-run >"$copy/build.log" 2>&1; then
        echo 'BUILD'
        return
    fi
    if ! SIM_FROM=1 SIM_SEEDS=$seeds timeout 900 $cargo test $tests --test sim first_failure -- --ignored --nocapture >"$copy/sim.log" 2>&1; then
        line=$(sed -n 's/^\(seed [0-9]*\) step [0-9]* \([^:]*\):.*/simulator, \1: \2/p' "$copy/sim.log" | head -n 1)
        echo "${line:-simulator: ended otherwise}"
        return
    fi
    if ! timeout 900 $cargo test $tests --no-fail-fast --lib $others >"$copy/tests.log" 2>&1; then
        echo "tests: $(first_failed "$copy/tests.log")"
    fi
}

if [ "${PROVE_BASELINE:-yes}" = yes ]; then
    baseline=$(check)
    if [ -n "$baseline" ]; then
        echo "the tree as it is fails: $baseline" >&2
        tail -n 20 "$copy"/*.log >&2
        exit 1
    fi
    echo "without a bug: nothing found in $seeds runs and all tests of the engine"
fi

survived=0
count=0
for patch in "$here"/tests/mutants/*.patch "$here"/tests/mutants/adapters/*.patch; do
    name=$(basename "$patch" .patch)
    wanted=$([ $# -eq 0 ] && echo yes || echo no)
    for word in "$@"; do
        case $name in *"$word"*) wanted=yes ;; esac
    done
    [ "$wanted" = yes ] || continue
    count=$((count + 1))
    if ! patch -p1 --forward --quiet <"$patch" >"$copy/patch.log" 2>&1; then
        echo "$name: DOES NOT APPLY; make it again for the code as it is now"
        survived=$((survived + 1))
        git -C "$here" ls-files -z --cached --others --exclude-standard -- src | (cd "$here" && tar cf - --null -T -) | tar xf - -C "$copy"
        continue
    fi
    case $patch in
        */adapters/*) found=$(check_adapter) ;;
        *) found=$(check) ;;
    esac
    case $found in
        '') echo "$name: SURVIVES"; survived=$((survived + 1)) ;;
        BUILD) echo "$name: DOES NOT BUILD"; tail -n 5 "$copy/build.log"; survived=$((survived + 1)) ;;
        *) echo "$name: found by $found" ;;
    esac
    patch -p1 --reverse --quiet <"$patch"
done
if [ "$count" -eq 0 ]; then
    echo "no planted bug is called so" >&2
    exit 1
fi
echo "$count planted bugs, $survived not found"
[ "$survived" -eq 0 ]
