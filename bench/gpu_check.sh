#!/usr/bin/env bash
# All that needs a GPU, in one command, without network and in less than 8 minutes: builds with nvcc,
# tests ops, models and the engine on the device, the ops under compute-sanitizer too, and times
# kernels, forwards and whole requests. Every part has a time limit and goes on when the one before it
# failed; the end says what did. Logs, JSON and summary.txt go to one folder.
#
#   bench/gpu_check.sh [OUT]        (OUT: build/gpu; needs nvcc, cmake, a GPU of sm_80 or newer)
#
# DREAM_R_GPU_SECONDS: for everything together (450).
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/gpu}
limit=${DREAM_R_GPU_SECONDS:-450}
PATH=$PATH:/usr/local/cuda/bin

die() { echo "gpu_check: $1" >&2; exit 2; }
command -v nvidia-smi >/dev/null || die "no NVIDIA driver (nvidia-smi is not there): run this on a machine with a GPU"
gpu=$(nvidia-smi -i 0 --query-gpu=name,driver_version,compute_cap --format=csv,noheader 2>&1) ||
  die "no GPU that can be used: $(head -n 1 <<<"$gpu")"
for tool in nvcc cmake; do command -v $tool >/dev/null || die "$tool is not installed"; done
IFS=, read -r name driver capability <<<"${gpu//, /,}"
case $capability in
  9.*) arch=90a-real ;;
  [0-7].*) die "$name has compute capability $capability, 8.0 or newer is needed" ;;
  *) arch=80 ;;
esac
mkdir -p "$out" || die "cannot write to $out"
rm -f "$out"/*.log "$out"/*.json "$out"/summary.txt

failed=0
say() { printf '%-18s %s\n' "$1" "$2" | tee -a "$out/summary.txt"; }
# NAME SECONDS COMMAND...: the output goes to NAME.log. False when it failed or there was no time.
part() {
  local name=$1 seconds=$2 began=$SECONDS left=$((limit - SECONDS)) status=0
  shift 2
  if ((left < 5)); then
    say "$name" "SKIPPED, no time left"
    return 1
  fi
  timeout --kill-after=5 $((seconds < left ? seconds : left)) "$@" >"$out/$name.log" 2>&1 || status=$?
  case $status in
    0) say "$name" "ok, $((SECONDS - began)) s" ;;
    124 | 137) say "$name" "FAILED, stopped after $((SECONDS - began)) s" ;;
    *) say "$name" "FAILED, status $status, $((SECONDS - began)) s: $out/$name.log" ;;
  esac
  ((status == 0))
}
check() { part "$@" || failed=1; }

commit=$(git rev-parse HEAD 2>/dev/null || echo "${DREAM_R_COMMIT:-unknown}")
printf '{"gpu": "%s", "driver": "%s", "compute_capability": "%s", "nvcc": "%s", "commit": "%s", "date": "%s"}\n' \
  "$name" "$driver" "$capability" "$(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')" "$commit" \
  "$(date -u +%FT%TZ)" | tee "$out/machine.json"
nvidia-smi >"$out/nvidia-smi.log" 2>&1
# torch's wheels carry cuBLASLt, which takes the products of many rows where it is found.
library=$(python3 - <<'PY' 2>/dev/null
import glob, os, sys
found = [f for p in sys.path if p for f in glob.glob(os.path.join(p, "nvidia", "*", "lib", "libcublasLt.so.1*"))]
print(os.path.dirname(found[0]) if found else "")
PY
)
[ -z "$library" ] || export LD_LIBRARY_PATH=$library${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
[ -n "$library" ] || echo "cuBLASLt not found among Python's packages: our own kernels take the products of many rows"

programs=(test_core test_ops test_kv test_model test_runtime
  bench_linear_cuda bench_attention_cuda bench_small_cuda bench_forward_cuda bench_request)
generator=() onward=(-k)  # past a program that does not compile
if command -v ninja >/dev/null; then generator=(-G Ninja) onward=(-k 0); fi
rm -f "${programs[@]/#/build/cuda/}"  # none of an earlier commit is run
check configure 60 cmake -S . -B build/cuda "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DDREAM_R_CUDA=ON \
  -DDREAM_R_CUDA_ARCHITECTURES=$arch -DDREAM_R_PYTHON=OFF -DDREAM_R_TESTS=ON -DDREAM_R_BENCH=ON
check build 220 cmake --build build/cuda -j "$(nproc)" --target "${programs[@]}" -- "${onward[@]}"
((failed)) && tail -n 30 "$out/configure.log" "$out/build.log"

export DREAM_R_TEST_DEVICE=cuda  # the CPU's share of these tests needs no GPU
check test_core 20 build/cuda/test_core
check test_kv 20 build/cuda/test_kv
check test_ops 60 build/cuda/test_ops
check test_model 30 build/cuda/test_model -tc='device*'
check test_runtime 40 build/cuda/test_runtime -tc='device*'

# Short cases of every family of kernels, the four tools side by side: their time is mostly the host's.
if command -v compute-sanitizer >/dev/null; then
  cases='*fill_linear*,*forward*,*rows*,*norm*,*activations*,*rope*,*rotate*,*mrope*,*kv_write*,*moe_*,*copy*,*whole blocks*,*f16*,*grouped*,*select*,*attention*,*greedy*,*sampled each*,*log_sum_exp*'
  tools=(memcheck racecheck initcheck synccheck)
  running=()
  for tool in "${tools[@]}"; do
    part "$tool" 100 compute-sanitizer --tool "$tool" --error-exitcode 1 build/cuda/test_ops -tc="$cases" &
    running+=($!)
  done
  for job in "${running[@]}"; do wait "$job" || failed=1; done
else
  say sanitizers "SKIPPED, compute-sanitizer is not installed: memory and races stay unchecked"
fi

check bench_linear 60 build/cuda/bench_linear_cuda --json "$out/linear.json"
check bench_forward 110 build/cuda/bench_forward_cuda --json "$out/forward.json"
# Short tables; without --acceptance and --methods it is the whole one, some ten minutes.
request() { # NAME SECONDS OPTIONS...
  check "$1" "$2" build/cuda/bench_request --device cuda --target 32B --format w4 --draft 2B \
    --requests 2 --tokens 240 --answer 48 --json "$out/${1#bench_}.json" "${@:3}"
}
request bench_request 70 --draft-format bf16 --acceptance 0.2,0.635,0.95 --methods specreason,fpsr:auto:fused
request bench_request_w4 30 --draft-format w4 --acceptance 0.635 --methods fpsr:auto:fused
check bench_small 20 build/cuda/bench_small_cuda --json "$out/small.json"
check bench_attention 50 build/cuda/bench_attention_cuda --json "$out/attention.json"
if ((failed)); then
  echo "FAILED after ${SECONDS}s:"
  grep -E "FAILED|SKIPPED" "$out/summary.txt"
  exit 1
fi
echo "all passed in ${SECONDS}s"
