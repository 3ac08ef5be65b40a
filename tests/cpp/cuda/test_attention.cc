// Paged attention kernels against attention in double: prefixes, partial blocks, splits, groups.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "attention_oracle.h"
#include "device_array.h"
#include "ops/cuda/attention.h"

using namespace dream_r;
using namespace dream_r::test;
using cuda::AttentionKernel;

namespace {

struct RowSpec {
  int q_len, prefix_len, own_begin;
};

// A paged cache with the rows' tokens in shuffled blocks; every slot without a token is NaN.
class Paged {
 public:
  Paged(ops::Heads heads, DType kv, const std::vector<RowSpec>& specs)
      : h_(heads), kv_(kv), specs_(specs) {
    int blocks = 0, tokens = 1;  // token 0 belongs to no row
    for (const auto& s : specs_) {
      begins_.push_back(tokens);
      tokens += s.q_len;
      max_q_ = std::max(max_q_, s.q_len);
      max_keys_ = std::max(max_keys_, s.prefix_len + s.own_begin + s.q_len);
      blocks += count(s.prefix_len) + count(s.own_begin + s.q_len);
    }
    tokens_ = tokens;
    place(blocks + 3);
    q_ = normals(static_cast<std::size_t>(tokens) * stride(), 5);
  }

  std::vector<float> run(const cuda::AttentionPlan* forced = nullptr) const {
    TestStream s;
    const DeviceArray<float> q(s, q_), out(s, std::vector<float>(outputs(), -7.0f));
    const DeviceArray<std::byte> k(s, bytes(k_)), v(s, bytes(v_));
    const DeviceArray<std::int32_t> tables(s, tables_);
    std::vector<ops::AttentionRow> rows;
    for (std::size_t r = 0, at = 0; r < specs_.size(); ++r) {
      const auto& spec = specs_[r];
      const auto* own = tables.data() + at + count(spec.prefix_len);
      rows.push_back(
          {begins_[r], spec.q_len, tables.data() + at, spec.prefix_len, own, spec.own_begin});
      at += count(spec.prefix_len) + count(spec.own_begin + spec.q_len);
    }
    const DeviceArray<ops::AttentionRow> device_rows(s, rows);
    const cuda::AttentionBatch b{h_,
                                 q.data(),
                                 stride(),
                                 out.data(),
                                 k.data(),
                                 v.data(),
                                 kv_,
                                 device_rows.data(),
                                 static_cast<int>(rows.size()),
                                 tokens_,
                                 max_q_,
                                 max_keys_};
    const auto plan = forced ? *forced : cuda::plan_attention(b, 4);
    const DeviceArray<float> scratch(std::max<std::size_t>(1, cuda::attention_scratch(b, plan)));
    cuda::attention(b, plan, scratch.data(), s);
    return out.host(s);
  }

  // A plan with these parts, for a batch of these rows.
  cuda::AttentionPlan plan(AttentionKernel kernel, int tile_rows, int splits) const {
    const int pairs = max_q_ * (h_.q / h_.kv);
    return {kernel, tile_rows, (pairs + tile_rows - 1) / tile_rows, splits};
  }

  DType kv() const { return kv_; }
  Expected expected(DType q_type) const {
    Expected e;
    const std::size_t untouched = static_cast<std::size_t>(h_.q) * h_.dim;
    e.out.assign(untouched, -7.0);
    e.mass.assign(untouched, 7.0);
    e.square.assign(untouched, 0.0);
    e.unit_mass = e.unit_square = e.square;
    for (std::size_t r = 0, at = 0; r < specs_.size(); ++r) {
      const auto& spec = specs_[r];
      const int prefix_blocks = count(spec.prefix_len);
      for (int i = 0; i < spec.q_len; ++i)
        for (int head = 0; head < h_.q; ++head) {
          const auto slot = [&](int j) {
            const int own = j - spec.prefix_len;
            const int entry = own < 0 ? j / 16 : prefix_blocks + own / 16;
            return tables_[at + entry] * 16 + (own < 0 ? j : own) % 16;
          };
          const int kv = head / (h_.q / h_.kv);
          attend(
              &q_[static_cast<std::size_t>(begins_[r] + i) * stride() + head * h_.dim], h_.dim,
              spec.prefix_len + spec.own_begin + i + 1, q_type,
              [&](int j, int d) { return k_[key_at(slot(j), kv, d)]; },
              [&](int j, int d) { return v_[value_at(slot(j), kv, d)]; }, e);
        }
      at += prefix_blocks + count(spec.own_begin + spec.q_len);
    }
    return e;
  }

 private:
  static int count(int tokens) { return (tokens + 15) / 16; }
  int stride() const { return (h_.q + 2 * h_.kv) * h_.dim; }
  std::size_t outputs() const { return static_cast<std::size_t>(tokens_) * h_.q * h_.dim; }
  std::size_t key_at(int slot, int kv, int d) const {
    return ((std::size_t(slot / 16) * h_.kv + kv) * h_.dim + d) * 16 + slot % 16;
  }
  std::size_t value_at(int slot, int kv, int d) const {
    return ((std::size_t(slot / 16) * h_.kv + kv) * 16 + slot % 16) * h_.dim + d;
  }

  void place(int blocks) {
    std::vector<std::int32_t> free(static_cast<std::size_t>(blocks));
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), std::mt19937(3));
    k_.assign(static_cast<std::size_t>(blocks) * h_.kv * h_.dim * 16, NAN);
    v_ = k_;
    for (const auto& s : specs_)
      for (const int length : {s.prefix_len, s.own_begin + s.q_len})
        for (int t = 0; t < length; ++t) {
          if (t % 16 == 0) tables_.push_back(free.back()), free.pop_back();
          write(tables_.back() * 16 + t % 16);
        }
    if (tables_.empty()) tables_.push_back(0);
  }
  void write(int slot) {
    const auto values = normals(static_cast<std::size_t>(2 * h_.kv * h_.dim), slot + 100);
    const float* from = values.data();
    for (int kv = 0; kv < h_.kv; ++kv)
      for (int d = 0; d < h_.dim; ++d, from += 2) {
        k_[key_at(slot, kv, d)] = kept(from[0], kv_);
        v_[value_at(slot, kv, d)] = kept(from[1], kv_);
      }
  }
  std::vector<std::byte> bytes(const std::vector<float>& values) const {
    std::vector<std::byte> b(values.size() * size_of(kv_));
    if (kv_ == DType::f32) {
      std::memcpy(b.data(), values.data(), b.size());
      return b;
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto bits = kv_ == DType::f16 ? f16(values[i]).bits : bf16(values[i]).bits;
      std::memcpy(b.data() + 2 * i, &bits, 2);
    }
    return b;
  }

  ops::Heads h_;
  DType kv_;
  std::vector<RowSpec> specs_;
  std::vector<int> begins_;
  int tokens_ = 0, max_q_ = 0, max_keys_ = 0;
  std::vector<float> q_, k_, v_;
  std::vector<std::int32_t> tables_;
};

void check(const Paged& paged, const cuda::AttentionPlan& plan) {
  const DType factors = plan.kernel != AttentionKernel::plain ? paged.kv() : DType::f32;
  check_close(paged.run(&plan), paged.expected(factors), factors);
}

constexpr DType kHalves[] = {DType::bf16, DType::f16};

}  // namespace

TEST_CASE("plain attention of any head dimension, caches of f32, bf16 and f16") {
  const std::vector<RowSpec> rows = {{1, 0, 0}, {3, 17, 0}, {2, 16, 31}, {0, 5, 5}, {5, 0, 40}};
  for (const ops::Heads h : {ops::Heads{4, 2, 16}, {3, 3, 32}, {5, 1, 80}, {2, 1, 96}, {6, 2, 256}})
    for (const DType kv : {DType::f32, DType::bf16, DType::f16}) {
      CAPTURE(h.dim);
      CAPTURE(std::string(name_of(kv)));
      const Paged paged(h, kv, rows);
      check(paged, paged.plan(AttentionKernel::plain, 1, 1));
    }
}

TEST_CASE("decode attention: groups, tokens, prefixes, splits") {
  struct Case {
    ops::Heads heads;
    std::vector<RowSpec> rows;
  };
  const Case cases[] = {
      {{8, 1, 128}, {{1, 0, 0}, {1, 0, 15}, {1, 0, 16}, {2, 0, 100}, {0, 3, 3}, {2, 33, 5}}},
      {{16, 2, 128}, {{1, 16, 30}, {2, 0, 260}}},
      {{4, 2, 128}, {{8, 70, 3}, {5, 0, 14}, {1, 1, 0}}},
      {{4, 4, 64}, {{1, 0, 0}, {16, 40, 17}, {3, 0, 700}}},
      {{5, 1, 64}, {{3, 15, 15}, {1, 0, 90}}},
  };
  for (const auto& c : cases)
    for (const DType kv : kHalves) {
      const Paged paged(c.heads, kv, c.rows);
      CAPTURE(std::string(name_of(kv)));
      for (const int splits : {1, 2, 7}) {
        CAPTURE(c.heads.q);
        CAPTURE(c.heads.dim);
        CAPTURE(splits);
        check(paged, paged.plan(AttentionKernel::decode, 16, splits));
      }
    }
}

TEST_CASE("chunk attention: tiles, causal edge, branches behind a prefix, splits") {
  struct Case {
    ops::Heads heads;
    std::vector<RowSpec> rows;
  };
  const Case cases[] = {
      {{8, 2, 128}, {{1, 0, 0}, {20, 37, 0}, {70, 0, 0}, {0, 1, 1}, {33, 64, 7}}},
      {{2, 2, 64}, {{130, 0, 0}, {17, 90, 30}, {1, 0, 300}}},
      {{5, 1, 64}, {{29, 3, 15}, {2, 0, 0}}},
      {{20, 1, 128}, {{4, 18, 60}}},
  };
  for (const auto& c : cases)
    for (const DType kv : kHalves) {
      const Paged paged(c.heads, kv, c.rows);
      CAPTURE(std::string(name_of(kv)));
      for (const int tile_rows : {64, 128})
        for (const int splits : {1, 3}) {
          CAPTURE(c.heads.q);
          CAPTURE(c.heads.dim);
          CAPTURE(tile_rows);
          CAPTURE(splits);
          check(paged, paged.plan(AttentionKernel::chunk, tile_rows, splits));
        }
    }
}

TEST_CASE("the planned kernel gives the batch's attention") {
  for (const auto& [h, kv] : {std::pair{ops::Heads{16, 2, 128}, DType::bf16},
                              {ops::Heads{16, 2, 128}, DType::f16},
                              {ops::Heads{4, 2, 64}, DType::bf16},
                              {ops::Heads{4, 2, 64}, DType::f16},
                              {ops::Heads{4, 2, 64}, DType::f32},
                              {ops::Heads{4, 2, 32}, DType::f16}})
    for (const int q_len : {1, 2, 9, 40}) {
      CAPTURE(h.dim);
      CAPTURE(std::string(name_of(kv)));
      CAPTURE(q_len);
      const Paged paged(h, kv, {{q_len, 50, 3}, {1, 0, 80}});
      const DType factors = h.dim >= 64 ? kv : DType::f32;
      check_close(paged.run(), paged.expected(factors), factors);
    }
}

TEST_CASE("plans: kernel by rows and type, splits by what fills the device") {
  cuda::AttentionBatch b{};
  b.heads = {64, 8, 128};
  b.kv = DType::f16;
  b.count = b.max_q_len = b.tokens = 1;
  b.max_keys = 8192;
  const auto plan = [&] { return cuda::plan_attention(b, 132); };
  CHECK(plan().kernel == AttentionKernel::decode);
  CHECK(plan().splits == 33);
  CHECK(cuda::attention_scratch(b, plan()) == 33u * 64 * 130);
  b.max_keys = 100;
  CHECK(plan().splits == 2);
  b.count = b.tokens = 64;
  b.max_keys = 8192;
  CHECK(plan().splits == 1);
  CHECK(cuda::attention_scratch(b, plan()) == 0);
  b.count = 4;
  b.max_q_len = 20;
  CHECK(plan().kernel == AttentionKernel::chunk);
  CHECK(plan().tile_rows == 128);
  CHECK(plan().tiles == 2);
  CHECK(plan().splits == 4);
  b.heads.dim = 80;
  CHECK(plan().kernel == AttentionKernel::plain);
  b.heads.dim = 128;
  b.kv = DType::f32;
  CHECK(plan().kernel == AttentionKernel::plain);
}
