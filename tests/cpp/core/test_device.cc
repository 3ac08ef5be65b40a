#include "core/arena.h"
#include "core/device.h"
#include "core/stream.h"
#include "doctest.h"

using namespace dream_r;

namespace {
template <class F>
std::string failure(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}
bool one_line(const std::string& text) {
  return !text.empty() && text.find('\n') == std::string::npos;
}
}  // namespace

TEST_CASE("devices have names") {
  CHECK(parse_device("cpu") == Device{});
  CHECK(parse_device("cuda") == cuda_device());
  CHECK(parse_device("cuda:3") == cuda_device(3));
  for (const Device d : {Device{}, cuda_device(), cuda_device(12)})
    CHECK(parse_device(d.str()) == d);
  for (const char* bad : {"", "gpu", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cuda:99999999999"})
    CHECK(one_line(failure([&] { parse_device(bad); })));
}

TEST_CASE("a device that cannot be used is refused in one line, and the CPU goes on") {
  const std::string absent = failure([] { Stream s(cuda_device(1000)); });
  CHECK(one_line(absent));
  if (kHasCuda && cuda::unusable().empty())
    CHECK(absent.find("cuda:1000 is not there: the driver shows cuda:0") == 0);
  Stream s{Device{}};
  CHECK(s.threads() == 1);
  s.wait();
  CHECK_THROWS_AS(s.cuda(), Error);
  CHECK_THROWS_AS(s.scratch(1), Error);
  if (kHasCuda) return;
  CHECK(failure([] { Stream s(cuda_device()); }).rfind("this build has no CUDA", 0) == 0);
  CHECK(failure([] { Tensor::empty({1}, DType::f32, cuda_device()); }).rfind("this build", 0) == 0);
  CHECK(cuda::devices().empty());
}

TEST_CASE("tensors and arenas know their device") {
  CHECK(Tensor().device() == Device{});
  if (!kHasCuda || !cuda::unusable().empty()) return;
  const Tensor t = Tensor::empty({3, 4}, DType::f32, cuda_device());
  CHECK(t.device() == cuda_device());
  CHECK(t.rows(1, 2).device() == cuda_device());
  Arena arena(cuda_device(), 1024);
  const Tensor a = arena.take({10}, DType::f32), b = arena.take({1000}, DType::f32);
  CHECK(a.device() == cuda_device());
  CHECK(b.device() == cuda_device());
  arena.reset();
  CHECK(arena.take({10}, DType::f32).data<float>() == a.data<float>());
  Stream s(cuda_device(), 2);
  CHECK(s.device() == cuda_device());
  std::byte* small = s.scratch(100);
  CHECK(s.scratch(50) == small);
  CHECK(s.scratch(std::size_t{1} << 20) != nullptr);
  CHECK(cuda::free_bytes(0) > 0);
}
