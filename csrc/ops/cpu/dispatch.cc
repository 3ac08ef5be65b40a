#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/check.h"
#include "ops/cpu/kernels.h"
#include "ops/ops.h"

namespace dream_r::cpu {
namespace {

thread_local const Kernels* override_table = nullptr;

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif

std::vector<const Kernels*> find_tables() {
  std::vector<const Kernels*> found = {&kPortable};
#if defined(__x86_64__)
  if (has_avx2()) found.push_back(&kAvx2);
  if (has_avx512()) found.push_back(&kAvx512);
  if (has_avx512() && amx_permitted()) {
    static const Kernels amx = with_linear(kAvx512, "amx", kAmxLinearBf16, kAmxLinearW4);
    found.push_back(&amx);
  }
#endif
  return found;
}

const Kernels& pick() {
  const char* wanted = std::getenv("DREAM_R_ISA");
  if (!wanted || !*wanted) return *isa_tables().back();
  std::string names;
  for (const Kernels* table : isa_tables()) {
    if (!std::strcmp(wanted, table->name)) return *table;
    names += (names.empty() ? "" : ", ") + std::string(table->name);
  }
  DR_FAIL(input) << "DREAM_R_ISA=" << wanted << ": this machine runs " << names;
}

}  // namespace

Kernels with_linear(const Kernels& base, const char* name, const LinearKernel& bf16,
                    const LinearKernel& w4) {
  Kernels table = base;
  table.name = name;
  table.linear_bf16 = bf16;
  table.linear_w4 = w4;
  return table;
}

const std::vector<const Kernels*>& isa_tables() {
  static const std::vector<const Kernels*> tables = find_tables();
  return tables;
}

const Kernels& kernels() {
  if (override_table) return *override_table;
  static const Kernels& table = pick();
  return table;
}

IsaScope::IsaScope(const Kernels& table) : before_(override_table) { override_table = &table; }
IsaScope::~IsaScope() { override_table = before_; }

}  // namespace dream_r::cpu

namespace dream_r {
const char* cpu_isa() { return cpu::kernels().name; }

DType fastest_dtype(Device device) {
  const cpu::Kernels& k = cpu::kernels();
  const bool i16 = k.linear_i16.madds_per_ns > k.linear_bf16.madds_per_ns;
  return i16 && !device.on_cuda() ? DType::i16 : DType::bf16;
}

std::vector<std::string> cpu_isas() {
  std::vector<std::string> names;
  for (const auto* table : cpu::isa_tables()) names.emplace_back(table->name);
  return names;
}
}  // namespace dream_r
