#!/usr/bin/env bash
# The NEON kernels against the plain ones, compiled for aarch64 and run by an emulator.
# Needs g++-aarch64-linux-gnu and qemu-user (Debian's packages).
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build/arm}
cmake -S . -B "$build" -G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DPAPERLAB_TEST=ON >/dev/null
cmake --build "$build" --target kernels_test
exec qemu-aarch64 -L /usr/aarch64-linux-gnu "$build/kernels_test"
