#!/usr/bin/env bash
# Fuzz each reader for SECONDS (60); a crasher is written to the build folder and belongs into fuzz/corpus/KIND.
#     native/fuzz/run.sh [SECONDS] [BUILD]        needs clang 15 or later; CXX names it
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60} build=${2:-build/fuzz}
CXX=${CXX:-clang++} cmake -S . -B "$build" -G Ninja -DPAPERLAB_FUZZ=ON >/dev/null
cmake --build "$build" --target fuzz_json fuzz_safetensors fuzz_gguf fuzz_packed
for kind in json safetensors gguf packed; do
    mkdir -p "$build/found/$kind"
    echo "== $kind"
    nice -n 19 "$build/fuzz_$kind" -max_total_time="$seconds" -rss_limit_mb=4096 -malloc_limit_mb=3000 -timeout=20 -print_final_stats=1 \
        -artifact_prefix="$build/$kind-" "$build/found/$kind" "fuzz/corpus/$kind" 2>&1 | grep -E "ERROR|SUMMARY|DONE|number_of_executed|Test unit"
done
