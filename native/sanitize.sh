#!/usr/bin/env bash
# The engine under the sanitizers: kernels beside the plain ones, threads, damaged files. About two minutes on two cores.
#     native/sanitize.sh [KIND...]               address,undefined and thread where none is named
#     PYTHON=python3 native/sanitize.sh KIND     that interpreter's kernels and hostile files of tests/native too
# BUILD names the folder of the builds (native/build). What does not run here is said and left out;
# PAPERLAB_REQUIRE_SERVICES=1, which the CI script sets, makes that a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
builds=$(realpath -m "${BUILD:-native/build}")
corpus=native/fuzz/corpus
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1

missing() {
    echo "$1: the sanitizers are left out"
    [ "${PAPERLAB_REQUIRE_SERVICES:-}" != 1 ] || { echo "PAPERLAB_REQUIRE_SERVICES=1 requires them" >&2; exit 1; }
    exit 0
}

# How a program of a kind is started here: nothing before it, or without addresses at random, which an older
# ThreadSanitizer cannot place its shadow beside. Fails where no such program starts.
starter() {
    local probe="$builds/probe-${1//,/-}"
    echo 'int main() {}' | "${CXX:-g++}" "-fsanitize=$1" -x c++ - -o "$probe" 2>/dev/null || return 1
    if "$probe" 2>/dev/null; then return; fi
    if setarch -R "$probe" 2>/dev/null; then echo "setarch -R"; return; fi
    return 1
}

run() {
    local kind=$1 build="$builds/${1//,/-}" start
    start=$(starter "$kind") || {
        export ASAN_OPTIONS=${ASAN_OPTIONS/leaks=1/leaks=0}
        start=$(starter "$kind") || missing "no program built with -fsanitize=$kind starts here (Debian: apt-get install g++)"
        echo "LeakSanitizer does not start here: leaks are not looked for"
    }
    echo "== $kind: building"
    cmake -S native -B "$build" -G "Unix Makefiles" -DCMAKE_BUILD_TYPE=None -DPAPERLAB_SANITIZE="$kind" -DPAPERLAB_TEST=ON >/dev/null
    cmake --build "$build" --parallel "$(nproc)" | { grep -E "warning:|error:|FAILED" || true; }
    echo "== $kind: running"
    $start "$build/kernels_test"
    $start "$build/threads_test" "$corpus"/packed/*
    for reader in json safetensors gguf packed; do $start "$build/replay_$reader" 500 "$corpus/$reader"/*; done
    [ -z "${PYTHON:-}" ] || python "$kind" "$build/libpaperlab.so"
}

# Python's own allocations are no leaks of ours.
python() {
    local preload= name
    for name in ${1//,/ }; do
        case $name in
            address) preload+=" $(g++ -print-file-name=libasan.so)" ;;
            undefined) preload+=" $(g++ -print-file-name=libubsan.so)" ;;
            thread) preload+=" $(g++ -print-file-name=libtsan.so)" ;;
        esac
    done
    LD_PRELOAD="${preload# }" ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=$TSAN_OPTIONS:report_signal_unsafe=0 \
        OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PAPERLAB_LIBRARY="$2" \
        "$PYTHON" -m pytest -q -k "not more_threads" tests/native/test_kernels.py tests/native/test_hostile.py
}

for program in cmake make "${CXX:-g++}"; do command -v "$program" >/dev/null || missing "no $program on the path"; done
mkdir -p "$builds"
[ $# -gt 0 ] || set -- address,undefined thread
for kind in "$@"; do run "$kind"; done
