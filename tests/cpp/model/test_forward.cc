#include <numeric>
#include <thread>

#include "doctest.h"
#include "files.h"
#include "model/vl_model.h"
#include "small_model.h"

using namespace dream_r;
using test::error_of;
using test::has;

namespace {

ModelConfig tiny() { return test::small_model(3); }

BatchRow row_of(std::span<const std::int32_t> tokens, std::span<const Position> positions,
                const std::int32_t* table) {
  BatchRow row;
  row.tokens = tokens;
  row.positions = positions.first(tokens.size());
  row.own.table = table;
  return row;
}

// What one lane owns, and a prompt run through it.
struct Runner {
  explicit Runner(const Model& m, std::int32_t blocks = 8)
      : model(m), kv({m.config().text.layers, 2, 16, DType::bf16}, blocks) {}

  std::vector<float> last_logits(const std::vector<std::int32_t>& ids) {
    std::vector<Position> positions;
    for (std::int32_t i = 0; i < static_cast<std::int32_t>(ids.size()); ++i)
      positions.push_back({i, i, i});
    std::vector<std::int32_t> table(static_cast<std::size_t>(kv.blocks()));
    std::iota(table.begin(), table.end(), 0);
    Batch batch;
    batch.rows.push_back(row_of(ids, positions, table.data()));
    batch.wanted.push_back({0, static_cast<std::int32_t>(ids.size()) - 1});
    const auto result = model.forward(stream, arena, kv, batch, {});
    return {result.full.f32(), result.full.f32() + result.full.numel()};
  }

  const Model& model;
  Stream stream;
  Arena arena;
  KvStore kv;
};

std::vector<std::int32_t> ids(std::int32_t n) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(n));
  for (std::int32_t i = 0; i < n; ++i) out[static_cast<std::size_t>(i)] = i * 7 % 50;
  return out;
}

}  // namespace

TEST_CASE("forward: one model serves several threads at once") {
  const auto model = random_model(tiny(), {DType::bf16, 1});
  const auto prompt = ids(40);
  const auto expected = Runner(*model).last_logits(prompt);
  CHECK(expected.size() == 50);
  std::vector<std::vector<float>> got(4);
  std::vector<std::thread> threads;
  for (auto& out : got)
    threads.emplace_back([&] {
      Runner runner(*model);
      for (int i = 0; i < 20; ++i) out = runner.last_logits(prompt);
    });
  for (auto& t : threads) t.join();
  for (const auto& out : got) CHECK(out == expected);
}

TEST_CASE("forward: logits that nobody had wanted, later, are the bits that a forward gives") {
  const auto model = random_model(tiny(), {DType::bf16, 1});
  const auto prompt = ids(45);
  std::vector<Position> positions;
  for (std::int32_t i = 0; i < 45; ++i) positions.push_back({i, i, i});
  std::vector<std::int32_t> table(8);
  std::iota(table.begin(), table.end(), 0);
  const auto all = std::span(prompt);
  Batch batch;  // 20 tokens, and as rows of their own what follows them and what begins anew
  batch.rows.push_back(row_of(all.first(20), positions, table.data()));
  batch.rows.push_back(row_of(all.subspan(20, 20), std::span(positions).subspan(20), table.data()));
  batch.rows[1].own.length = 20;
  batch.rows.push_back(row_of(all.last(5), positions, table.data() + 4));
  const std::vector<LogitsWanted> late = {{1, 3}, {1, 4}, {0, 17}, {1, 19}, {2, 0}, {0, 18}};
  const auto values = [](const Tensor& t) {
    return std::vector<float>(t.f32(), t.f32() + t.numel());
  };
  Runner runner(*model), other(*model);
  batch.wanted = late;
  const auto expected =
      values(runner.model.forward(runner.stream, runner.arena, runner.kv, batch, {}).full);
  batch.wanted = {{0, 19}, {1, 19}, {2, 1}};
  const auto result = model->forward(other.stream, other.arena, other.kv, batch, {});
  const auto kept = values(result.full);
  const auto logits = [&](std::span<const LogitsWanted> wanted) {
    return values(model->late_logits(other.stream, other.arena, other.kv, result, wanted));
  };
  CHECK(logits(late) == expected);
  const auto some = logits(std::span(late).subspan(2, 1));  // asked again, alone
  CHECK(some == std::vector<float>(expected.begin() + 2 * 50, expected.begin() + 3 * 50));
  CHECK(values(result.full) == kept);
}

TEST_CASE("forward: random models depend on the seed alone") {
  const auto prompt = ids(5);
  const auto a = Runner(*random_model(tiny(), {DType::f32, 1}, 3)).last_logits(prompt);
  CHECK(a == Runner(*random_model(tiny(), {DType::f32, 1}, 3)).last_logits(prompt));
  CHECK(a != Runner(*random_model(tiny(), {DType::f32, 1}, 4)).last_logits(prompt));
}

TEST_CASE("forward: a random model may have experts; their scratch serves any number of rows") {
  ModelConfig c = tiny();
  c.text.moe = {.experts = 6, .per_token = 2, .ffn = 16, .dense_layers = {}};
  const auto model = random_model(c, {DType::bf16, 1});
  CHECK(model->weight_bytes() > random_model(tiny(), {DType::bf16, 1})->weight_bytes());
  const auto few = ids(5), many = ids(30);
  const auto alone = Runner(*model).last_logits(few);
  Runner used(*model);
  used.last_logits(many);  // scratch of more rows
  CHECK(used.last_logits(few) == alone);
  CHECK(alone != Runner(*random_model(tiny(), {DType::bf16, 1})).last_logits(few));
}

TEST_CASE("forward: an empty batch, and batches that want nothing") {
  const auto model = random_model(tiny(), {DType::f32, 1});
  Runner r(*model);
  CHECK(!model->forward(r.stream, r.arena, r.kv, {}, {}).full.defined());
  const auto tokens = ids(1);
  const std::vector<Position> positions{{0, 0, 0}};
  const std::int32_t table[] = {0};
  Batch batch;
  batch.rows.push_back(row_of(tokens, positions, table));
  CHECK(!model->forward(r.stream, r.arena, r.kv, batch, {}).full.defined());
  batch.wanted.push_back({0, 0, true});
  CHECK(has(error_of([&] { model->forward(r.stream, r.arena, r.kv, batch, {}); }), "keyword head"));
}

TEST_CASE("forward: a cache of another shape, no tower, bad keywords") {
  const auto model = random_model(tiny(), {DType::f32, 1});
  Runner r(*model);
  KvStore other({2, 2, 16, DType::f32}, 1);
  CHECK(has(error_of([&] { model->forward(r.stream, r.arena, other, {}, {}); }), "2 layers"));
  CHECK(has(error_of([&] { model->encode_images(r.stream, Tensor(), {}); }), "no vision tower"));
  const std::int32_t bad[] = {50};
  CHECK(has(error_of([&] { model->keyword_head(bad); }), "keyword 50 of 50"));
}
