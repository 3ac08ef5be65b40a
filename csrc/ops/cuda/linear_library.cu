// Products of many rows by cuBLASLt, opened when it is first wanted: nothing links to it, and where
// it is not found our own kernels multiply. The weight is unpacked to bf16 (or f16) a block of rows
// at a time (w4: each weight rounded, 2^-9 of it), so the scratch stays small whatever the matrix.
//
// The declarations below are those of cublasLt.h and library_types.h that are used, as published in
// NVIDIA's cuBLAS documentation; they are the same in CUDA 12 and 13.
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <mutex>

#include "core/check.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/linear.h"

namespace dream_r::cuda {
namespace {

using Handle = void*;
constexpr int kF32 = 0, kF16 = 2, kBf16 = 14;                // CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF
constexpr int kComputeF32 = 68;                              // CUBLAS_COMPUTE_32F
constexpr int kTransA = 3, kEpilogue = 7, kBiasPointer = 8;  // CUBLASLT_MATMUL_DESC_*
constexpr int kWorkspaceBytes = 1;                           // CUBLASLT_MATMUL_PREF_*
constexpr std::int32_t kTransposed = 1;                      // CUBLAS_OP_T
constexpr std::uint32_t kWithBias = 4;                       // CUBLASLT_EPILOGUE_BIAS
struct Heuristic {                                           // cublasLtMatmulHeuristicResult_t
  std::uint64_t algo[8];
  std::size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(Heuristic) == 96);

struct Library {
  int (*create)(Handle*);
  int (*desc_create)(Handle*, int compute, int scale);
  int (*desc_destroy)(Handle);
  int (*desc_set)(Handle, int attribute, const void*, std::size_t);
  int (*layout_create)(Handle*, int type, std::uint64_t rows, std::uint64_t columns, std::int64_t);
  int (*layout_destroy)(Handle);
  int (*preference_create)(Handle*);
  int (*preference_destroy)(Handle);
  int (*preference_set)(Handle, int attribute, const void*, std::size_t);
  int (*heuristic)(Handle, Handle, Handle, Handle, Handle, Handle, Handle, int, Heuristic*, int*);
  int (*matmul)(Handle, Handle, const void* alpha, const void* a, Handle, const void* b, Handle,
                const void* beta, const void* c, Handle, void* d, Handle, const void* algo,
                void* workspace, std::size_t, cudaStream_t);
  bool found = false;
};

Library open_library() {
  Library l{};
#if defined(__CUDACC__)  // an emulated device's memory is not the library's
  void* file = nullptr;
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"})
    if ((file = dlopen(name, RTLD_NOW | RTLD_LOCAL))) break;
  if (!file) return l;
  bool all = true;
  const auto find = [&](auto& f, const char* name) {
    f = reinterpret_cast<std::remove_reference_t<decltype(f)>>(dlsym(file, name));
    all = all && f;
  };
  find(l.create, "cublasLtCreate");
  find(l.desc_create, "cublasLtMatmulDescCreate");
  find(l.desc_destroy, "cublasLtMatmulDescDestroy");
  find(l.desc_set, "cublasLtMatmulDescSetAttribute");
  find(l.layout_create, "cublasLtMatrixLayoutCreate");
  find(l.layout_destroy, "cublasLtMatrixLayoutDestroy");
  find(l.preference_create, "cublasLtMatmulPreferenceCreate");
  find(l.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  find(l.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  find(l.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  find(l.matmul, "cublasLtMatmul");
  l.found = all;
#endif
  return l;
}

// Opened once a process, as the CPU's kernels are chosen once.
const Library& library() {
  static const Library l = open_library();
  return l;
}

// One a device, for the life of the process; the library allows its use by several threads.
Handle handle() {
  static std::array<Handle, 64> handles{};
  static std::mutex mutex;
  int device = 0;
  check(cudaGetDevice(&device), "current device");
  const std::lock_guard lock(mutex);
  Handle& h = handles.at(static_cast<std::size_t>(device));
  if (!h) {
    DR_STATE(library().create(&h) == 0) << "CUDA: cuBLASLt cannot be started";
  }
  return h;
}

void ok(int status, const char* what) {
  DR_STATE(status == 0) << "CUDA: cuBLASLt: " << what << ": status " << status;
}

// A descriptor of the library, destroyed by `destroy`.
using Owned = std::unique_ptr<void, int (*)(Handle)>;

Owned layout(int type, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
  Handle h = nullptr;
  ok(library().layout_create(&h, type, static_cast<std::uint64_t>(rows),
                             static_cast<std::uint64_t>(columns), stride),
     "layout");
  return {h, library().layout_destroy};
}

Owned product(const float* bias) {
  Handle h = nullptr;
  ok(library().desc_create(&h, kComputeF32, kF32), "product");
  Owned desc{h, library().desc_destroy};
  ok(library().desc_set(h, kTransA, &kTransposed, sizeof(kTransposed)), "product");
  if (!bias) return desc;
  ok(library().desc_set(h, kEpilogue, &kWithBias, sizeof(kWithBias)), "bias");
  ok(library().desc_set(h, kBiasPointer, &bias, sizeof(bias)), "bias");
  return desc;
}

constexpr std::size_t kWorkspace = std::size_t{32} << 20;
constexpr std::size_t kBlockBytes = std::size_t{64} << 20;  // of unpacked weights

std::int64_t block_rows(const LinearProblem& p) {
  return std::min<std::int64_t>(
      p.n,
      std::max<std::int64_t>(16, static_cast<std::int64_t>(kBlockBytes) / (2 * p.k) / 16 * 16));
}
std::size_t aligned(std::int64_t bytes) {
  return (static_cast<std::size_t>(bytes) + 255) / 256 * 256;
}

// out[:, first .. first + count) = x w^T, seen by the library as columns: (count x rows) = w^T x.
void multiply(const LinearProblem& p, int type, std::int64_t first, std::int64_t count,
              const void* x, const void* w, void* workspace, cudaStream_t stream) {
  const Library& l = library();
  const Owned desc = product(p.bias ? p.bias + first : nullptr);
  const Owned a = layout(type, p.k, count, p.k), b = layout(type, p.k, p.rows, p.k);
  const Owned c = layout(kF32, count, p.rows, p.n);
  Handle h = nullptr;
  ok(l.preference_create(&h), "preference");
  const Owned preference{h, l.preference_destroy};
  ok(l.preference_set(h, kWorkspaceBytes, &kWorkspace, sizeof(kWorkspace)), "preference");
  Heuristic best{};
  int found = 0;
  ok(l.heuristic(handle(), desc.get(), a.get(), b.get(), c.get(), c.get(), h, 1, &best, &found),
     "choice of a kernel");
  DR_STATE(found == 1) << "CUDA: cuBLASLt has no kernel for " << p.rows << " rows, " << count
                       << " x " << p.k;
  const float one = 1.0f, zero = 0.0f;
  ok(l.matmul(handle(), desc.get(), &one, w, a.get(), x, b.get(), &zero, p.out + first, c.get(),
              p.out + first, c.get(), best.algo, workspace, kWorkspace, stream),
     "product");
}

}  // namespace

bool library_takes(const LinearProblem& p) {
  constexpr std::int64_t kManyRows = 256;  // where unpacking the weights begins to pay
  return p.rows > kManyRows && p.k % 8 == 0 && p.n % 4 == 0 && library().found;
}

std::size_t library_scratch_bytes(const LinearProblem& p) {
  return aligned(2 * p.rows * p.k) + aligned(2 * block_rows(p) * p.k) + kWorkspace;
}

void linear_library(const LinearProblem& p, DType type, void* scratch, cudaStream_t stream) {
  auto* const x = static_cast<std::byte*>(scratch);
  auto* const w = x + aligned(2 * p.rows * p.k);
  auto* const workspace = w + aligned(2 * block_rows(p) * p.k);
  round_rows(p, type, x, stream);
  for (std::int64_t first = 0; first < p.n; first += block_rows(p)) {
    const std::int64_t count = std::min(block_rows(p), p.n - first);
    unpack_rows(p, first, count, w, stream);
    multiply(p, type == DType::f16 ? kF16 : kBf16, first, count, x, w, workspace, stream);
  }
}

}  // namespace dream_r::cuda
