#!/usr/bin/env bash
# Kernels, threads and hostile files under the sanitizers; PYTHON names the interpreter (python3).
#     native/sanitize.sh address,undefined [BUILD]      native/sanitize.sh thread [BUILD]
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-address,undefined}
build=${2:-native/build/${kind//,/-}}
cmake -S native -B "$build" -G Ninja -DPAPERLAB_SANITIZE="$kind" >/dev/null
cmake --build "$build" --target paperlab
preload=
for name in ${kind//,/ }; do
    case $name in
        address) preload+=" $(g++ -print-file-name=libasan.so)" ;;
        undefined) preload+=" $(g++ -print-file-name=libubsan.so)" ;;
        thread) preload+=" $(g++ -print-file-name=libtsan.so)" ;;
    esac
done
tests=(tests/native/test_kernels.py tests/native/test_hostile.py)
LD_PRELOAD="${preload# }" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
    TSAN_OPTIONS=halt_on_error=1:report_signal_unsafe=0 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
    PAPERLAB_LIBRARY="$(realpath "$build")/libpaperlab.so" "${PYTHON:-python3}" -m pytest -q "${tests[@]}"
