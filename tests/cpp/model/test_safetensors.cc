#include "model/safetensors.h"

#include <cstring>

#include "doctest.h"
#include "files.h"
#include "fuzz.h"

using namespace dream_r;
using test::error_of;
using test::has;

namespace {

const std::string kHeader =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"I8","shape":[],)"
    R"("data_offsets":[32,33]}})";

std::string data33() {
  std::string data(33, '\0');
  const float a[6] = {0, 1, 2, 3, 4, 5};
  std::memcpy(data.data(), a, sizeof(a));
  for (int i = 0; i < 4; ++i) {
    const bf16 v(static_cast<float>(i) + 0.5f);
    std::memcpy(data.data() + 24 + 2 * i, &v, 2);
  }
  return data;
}

std::string open_error(const std::string& bytes) {
  const test::TempFolder folder;
  folder.write("x.safetensors", bytes);
  const std::string error =
      error_of([&] { SafetensorsFile file(folder.path() / "x.safetensors"); });
  if (!error.empty()) {
    CHECK(has(error, "x.safetensors"));  // every message names the file
    CHECK_FALSE(has(error, "\n"));       // and is one line
  }
  return error;
}

std::string one(const std::string& entry) { return R"({"t":)" + entry + "}"; }

std::string header_error(const std::string& header, std::size_t data_bytes) {
  return open_error(test::safetensors(header, std::string(data_bytes, 'x')));
}

}  // namespace

TEST_CASE("safetensors: a good file") {
  for (const std::string pad :
       {"", " ", "  ", "   "}) {  // odd padding puts tensors at odd addresses
    const test::TempFolder folder;
    folder.write("x.safetensors", test::safetensors(kHeader + pad, data33()));
    const SafetensorsFile file(folder.path() / "x.safetensors");
    CHECK(file.index().size() == 3);
    const Tensor a = file.get("a");
    CHECK(a.shape() == Shape{2, 3});
    CHECK(reinterpret_cast<std::uintptr_t>(a.f32()) % 4 == 0);
    for (int i = 0; i < 6; ++i) CHECK(a.f32()[i] == static_cast<float>(i));
    file.drop("a");
    CHECK(file.get("a").f32()[5] == 5.0f);  // dropped pages come back
    const Tensor b = file.get("b");
    CHECK(b.dtype() == DType::bf16);
    CHECK(static_cast<float>(b.data<bf16>()[3]) == 3.5f);
    CHECK(has(error_of([&] { file.get("c"); }), "tensor c: dtype I8 is not supported"));
    CHECK(has(error_of([&] { file.get("d"); }), "tensor d is missing"));
  }
}

TEST_CASE("safetensors: a tensor outlives its file object") {
  const test::TempFolder folder;
  folder.write("x.safetensors", test::safetensors(kHeader, data33()));
  Tensor a;
  {
    const SafetensorsFile file(folder.path() / "x.safetensors");
    a = file.get("a");
  }
  CHECK(a.f32()[4] == 4.0f);
}

TEST_CASE("safetensors: damage of every kind is refused") {
  CHECK(has(open_error(""), "empty file"));
  CHECK(has(open_error("1234567"), "no safetensors file"));
  const std::string good = test::safetensors(kHeader, data33());
  CHECK(open_error(good).empty());
  CHECK(has(open_error(good.substr(0, good.size() - 1)), "tensor c: ends at byte 33 of 32"));
  CHECK(has(open_error(good.substr(0, 20)), "a header of"));
  CHECK(has(open_error(good + "x"), "1 bytes belong to no tensor"));
  std::string huge = good;
  huge[7] = '\x7f';
  CHECK(has(open_error(huge), "a header of"));
  CHECK(has(header_error("[]", 0), "the header is a list"));
  CHECK(has(header_error("{", 0), "bad JSON"));
}

TEST_CASE("safetensors: damaged entries are refused by name") {
  const auto entry = [](const char* dtype, const char* shape, const char* offsets) {
    return one(std::string(R"({"dtype":")") + dtype + R"(","shape":)" + shape +
               R"(,"data_offsets":)" + offsets + "}");
  };
  CHECK(header_error(entry("F32", "[2]", "[0,8]"), 8).empty());
  CHECK(has(header_error(entry("F31", "[2]", "[0,8]"), 8), "tensor t: unknown dtype F31"));
  CHECK(has(header_error(entry("F32", "[3]", "[0,8]"), 8), "tensor t: data_offsets cover 8 bytes"));
  CHECK(has(header_error(entry("F32", "[2]", "[8,0]"), 8), "tensor t: bad data_offsets"));
  CHECK(has(header_error(entry("F32", "[2]", "[-8,0]"), 8), "tensor t: bad data_offsets"));
  CHECK(has(header_error(entry("F32", "[2]", "[0,8.0]"), 8), "tensor t: bad data_offsets"));
  CHECK(has(header_error(entry("F32", "[2]", "[0]"), 8), "tensor t: dtype, shape"));
  CHECK(has(header_error(entry("F32", "[-2]", "[0,8]"), 8), "tensor t: bad shape"));
  CHECK(has(header_error(entry("F32", "[4294967296,4294967296]", "[0,0]"), 0), "overflows"));
  CHECK(has(header_error(entry("F32", "[2]", "[8,16]"), 16), "leaving a hole"));
  CHECK(has(header_error(one("3"), 0), "tensor t: dtype, shape"));
  CHECK(has(header_error(one(R"({"dtype":"F32","shape":[0]})"), 0), "tensor t: dtype, shape"));
  const std::string overlap = R"({"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                              R"("u":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})";
  CHECK(has(header_error(overlap, 6), "tensor u: begins at byte 2, overlapping"));
  const std::string twice = R"({"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                            R"("t":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})";
  CHECK(has(header_error(twice, 8), "\"t\" is there twice"));
}

TEST_CASE("checkpoint: shards through the index") {
  const test::TempFolder folder;
  const auto shard = [](const std::string& name, char byte) {
    return test::safetensors(
        R"({")" + name + R"(":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})",
        std::string(3, byte));
  };
  folder.write("one.safetensors", shard("a", 1));
  folder.write("two.safetensors", shard("b", 2));
  const auto index = [&](const std::string& map) {
    folder.write("model.safetensors.index.json", R"({"metadata":{},"weight_map":)" + map + "}");
  };
  index(R"({"a":"one.safetensors","b":"two.safetensors"})");
  const Checkpoint checkpoint(folder.path());
  CHECK(checkpoint.get("a").data<std::uint8_t>()[2] == 1);
  CHECK(checkpoint.get("b").data<std::uint8_t>()[0] == 2);
  CHECK(checkpoint.names().size() == 2);
  CHECK(has(error_of([&] { checkpoint.get("c"); }), "tensor c is missing"));

  const auto open = [&] { return error_of([&] { Checkpoint again(folder.path()); }); };
  index(R"({"b":"one.safetensors"})");
  CHECK(has(open(), "one.safetensors: tensor b is missing"));
  index(R"({"a":"../one.safetensors"})");
  CHECK(has(open(), "bad file name"));
  index(R"({"a":"three.safetensors"})");
  CHECK(has(open(), "three.safetensors: cannot be opened"));
  index("[]");
  CHECK(has(open(), "no weight_map"));
  std::filesystem::remove(folder.path() / "model.safetensors.index.json");
  CHECK(has(open(), "neither model.safetensors nor"));
}

TEST_CASE("safetensors: random mutations of a header end in an Error or a readable file") {
  const std::string good = test::safetensors(kHeader, data33());
  test::Mutator mutate(7);
  int refused = 0, taken = 0;
  for (int round = 0; round < test::fuzz_rounds(5000); ++round) {
    const std::string bytes = mutate(good);
    std::uint64_t begin = 0;
    try {
      const auto index = read_safetensors_header(bytes, bytes.size(), "fuzz", &begin);
      for (const auto& [name, e] : index) {
        REQUIRE(e.begin <= e.end);
        REQUIRE(begin + e.end <= bytes.size());  // whatever was accepted can be read
      }
      ++taken;
    } catch (const Error&) {
      ++refused;
    }
  }
  CHECK(refused > 1000);  // the mutations do damage,
  CHECK(taken > 100);     // and some only touch data or names
}
