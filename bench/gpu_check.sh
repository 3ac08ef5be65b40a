#!/usr/bin/env bash
# All that needs a GPU, in one command and without network: builds with nvcc, runs the tests of the
# ops on the device, plainly and under compute-sanitizer, and the CUDA benchmarks. Logs and JSON go
# to one folder.
#
#   bench/gpu_check.sh [OUT]        (OUT: build/gpu; needs nvcc, cmake, a GPU of sm_80 or newer)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/gpu}
mkdir -p "$out"
step() { printf '== %s (%ss)\n' "$1" "$SECONDS" | tee -a "$out/steps.log"; }

step "machine"
{ git rev-parse HEAD || true; date -u; nvidia-smi || true; nvcc --version; } >"$out/machine.log" 2>&1

step "build"
cmake -S . -B build/cuda -DCMAKE_BUILD_TYPE=Release -DDREAM_R_CUDA=ON -DDREAM_R_PYTHON=OFF \
  -DDREAM_R_TESTS=ON -DDREAM_R_BENCH=ON >"$out/build.log"
cmake --build build/cuda -j "$(nproc)" --target test_core test_ops bench_linear_cuda bench_attention_cuda \
  >>"$out/build.log" 2>&1 || { tail -n 30 "$out/build.log"; exit 1; }

step "is there a GPU"
build/cuda/bench_linear_cuda --filter nothing --repeats 1

failed=0
check() {  # name, command: goes on when it fails, so that one call says everything
  step "$1"
  "${@:2}" >"$out/$1.log" 2>&1 || { failed=1; echo "$1 FAILED: $out/$1.log"; tail -n 20 "$out/$1.log"; }
}
check test_core build/cuda/test_core
check test_ops build/cuda/test_ops
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck synccheck; do
    check "$tool" timeout 90 compute-sanitizer --tool "$tool" --error-exitcode 1 build/cuda/test_ops -tc='*linear*,*attention*,*norm*'
  done
else
  echo "compute-sanitizer is not installed: memory and races stay unchecked"
fi
check bench_linear timeout 150 build/cuda/bench_linear_cuda --json "$out/linear.json"
check bench_attention timeout 100 build/cuda/bench_attention_cuda --json "$out/attention.json"
step "done"
exit $failed
