#pragma once
// Quantised checkpoints: what config.json's "quantization_config" says, and the INT4 linears it
// speaks of. A linear is quantised iff its quantised tensors are there, so lists of modules that
// were left in 16 bit need no reading.
#include <cstdint>
#include <span>
#include <string>

#include "core/stream.h"
#include "model/config.h"
#include "model/config_section.h"
#include "ops/linear_weight.h"

namespace dream_r {

class WeightSource;

// AutoAWQ's "gemm" and compressed-tensors' "pack-quantized" of 4 bits in groups; anything else is
// an Error naming file and key.
Quantization read_quantization(const Section& config);

// Rows of one matrix of a stack.
struct LinearPart {
  std::string name;
  std::int64_t rows;
};

// The tensor of a quantised linear's 4-bit values; empty where `name` is not quantised.
std::string words_of(const WeightSource& source, const Quantization& q, const std::string& name);
// The quantised linears `<prefix><part's name>` of k inputs, stacked; their tensors are dropped.
LinearWeight load_quantized(WeightSource& source, const Quantization& q, Stream& stream,
                            const std::string& prefix, std::span<const LinearPart> parts,
                            std::int64_t k);

}  // namespace dream_r
