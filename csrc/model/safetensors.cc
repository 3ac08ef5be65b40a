#include "model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>

#include "model/json.h"

namespace dream_r {
namespace {

constexpr std::uint64_t kPrefix = 8;               // little-endian length of the header
constexpr std::uint64_t kMaxHeader = 100'000'000;  // bytes, the format's own limit

struct TypeName {
  const char* name;
  std::uint64_t bits;
  std::optional<DType> dtype;  // empty: the format knows it, we do not compute with it
};
const TypeName kTypes[] = {
    {"F32", 32, DType::f32}, {"BF16", 16, DType::bf16}, {"F16", 16, DType::f16},
    {"I32", 32, DType::i32}, {"I64", 64, DType::i64},   {"U8", 8, DType::u8},
    {"F64", 64, {}},         {"BOOL", 8, {}},           {"I8", 8, {}},
    {"I16", 16, {}},         {"U16", 16, {}},           {"U32", 32, {}},
    {"U64", 64, {}},         {"F8_E4M3", 8, {}},        {"F8_E5M2", 8, {}},
    {"F8_E8M0", 8, {}},
};

const TypeName* find_type(std::string_view name) {
  for (const auto& t : kTypes)
    if (name == t.name) return &t;
  return nullptr;
}

bool multiply(std::uint64_t a, std::uint64_t b, std::uint64_t* out) {
  return !__builtin_mul_overflow(a, b, out);
}

SafetensorsEntry read_entry(const std::string& name, const Json& j, const std::string& where) {
  const Json* dtype = j.find("dtype");
  const Json* shape = j.find("shape");
  const Json* offsets = j.find("data_offsets");
  DR_CHECK(j.is(Json::Type::object) && j.members().size() == 3 && dtype && shape && offsets &&
           dtype->is(Json::Type::string) && shape->is(Json::Type::array) &&
           offsets->is(Json::Type::array) && offsets->array().size() == 2)
      << where << ": tensor " << name << ": dtype, shape and data_offsets wanted";
  SafetensorsEntry e;
  e.dtype = dtype->string();
  for (const Json& d : shape->array()) {
    DR_CHECK(d.is(Json::Type::integer) && d.integer() >= 0)
        << where << ": tensor " << name << ": bad shape";
    e.shape.push_back(d.integer());
  }
  const Json& begin = offsets->array()[0];
  const Json& end = offsets->array()[1];
  DR_CHECK(begin.is(Json::Type::integer) && end.is(Json::Type::integer) && begin.integer() >= 0 &&
           end.integer() >= begin.integer())
      << where << ": tensor " << name << ": bad data_offsets";
  e.begin = static_cast<std::uint64_t>(begin.integer());
  e.end = static_cast<std::uint64_t>(end.integer());
  return e;
}

void check_size(const std::string& name, const SafetensorsEntry& e, const std::string& where) {
  const TypeName* type = find_type(e.dtype);
  DR_CHECK(type) << where << ": tensor " << name << ": unknown dtype " << e.dtype;
  std::uint64_t bits = type->bits;
  bool fits = true;
  for (const std::int64_t d : e.shape)
    fits = fits && multiply(bits, static_cast<std::uint64_t>(d), &bits);
  DR_CHECK(fits && bits / 8 <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      << where << ": tensor " << name << ": its shape overflows";
  DR_CHECK(bits / 8 == e.end - e.begin)
      << where << ": tensor " << name << ": data_offsets cover " << e.end - e.begin
      << " bytes, dtype and shape want " << bits / 8;
}

// Sorted by offset the tensors must tile the data part: no overlap, no hole, no missing end.
void check_layout(const SafetensorsIndex& index, std::uint64_t data_bytes,
                  const std::string& where) {
  std::vector<std::pair<const std::string*, const SafetensorsEntry*>> order;
  for (const auto& [name, entry] : index) order.emplace_back(&name, &entry);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  std::uint64_t at = 0;
  for (const auto& [name, e] : order) {
    DR_CHECK(e->end <= data_bytes) << where << ": tensor " << *name << ": ends at byte " << e->end
                                   << " of " << data_bytes << " (truncated file?)";
    DR_CHECK(e->begin == at) << where << ": tensor " << *name << ": begins at byte " << e->begin
                             << (e->begin < at ? ", overlapping the one before, which ends at "
                                               : ", leaving a hole after ")
                             << at;
    at = e->end;
  }
  DR_CHECK(at == data_bytes) << where << ": " << data_bytes - at << " bytes belong to no tensor";
}

}  // namespace

SafetensorsIndex read_safetensors_header(std::string_view head, std::uint64_t file_bytes,
                                         const std::string& where, std::uint64_t* data_begin) {
  DR_CHECK(file_bytes >= kPrefix && head.size() >= kPrefix)
      << where << ": " << file_bytes << " bytes is no safetensors file";
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(head[i]);
  DR_CHECK(length <= kMaxHeader && length <= file_bytes - kPrefix &&
           length <= head.size() - kPrefix)
      << where << ": a header of " << length << " bytes in a file of " << file_bytes
      << " (truncated, or no safetensors file)";
  const Json root = Json::parse(head.substr(kPrefix, length), where);
  DR_CHECK(root.is(Json::Type::object)) << where << ": the header is " << root.type_name();
  SafetensorsIndex index;
  for (const auto& [name, value] : root.members()) {
    if (name == "__metadata__") continue;
    SafetensorsEntry e = read_entry(name, value, where);
    check_size(name, e, where);
    index.emplace(name, std::move(e));
  }
  *data_begin = kPrefix + length;
  check_layout(index, file_bytes - *data_begin, where);
  return index;
}

// A read-only private mapping of a whole file. Nobody may truncate the file while it is open.
struct SafetensorsFile::Mapping {
  explicit Mapping(const std::filesystem::path& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    DR_CHECK(fd >= 0) << path.string() << ": cannot be opened (" << std::strerror(errno) << ")";
    struct stat info{};
    const bool known = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
    bytes = known ? static_cast<std::size_t>(info.st_size) : 0;
    if (bytes > 0) {
      void* p = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
      if (p != MAP_FAILED) data = static_cast<std::byte*>(p);
    }
    ::close(fd);
    DR_CHECK(data) << path.string() << ": an empty file, or one that cannot be mapped";
  }
  ~Mapping() {
    if (data) ::munmap(data, bytes);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* data = nullptr;
  std::size_t bytes = 0;
};

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : where_(path.string()), mapping_(std::make_shared<Mapping>(path)) {
  const std::string_view text(reinterpret_cast<const char*>(mapping_->data), mapping_->bytes);
  index_ = read_safetensors_header(text, mapping_->bytes, where_, &data_begin_);
}

const SafetensorsEntry& SafetensorsFile::entry(const std::string& name) const {
  const auto it = index_.find(name);
  DR_CHECK(it != index_.end()) << where_ << ": tensor " << name << " is missing";
  return it->second;
}

Tensor SafetensorsFile::get(const std::string& name) const {
  const SafetensorsEntry& e = entry(name);
  const auto dtype = find_type(e.dtype)->dtype;
  DR_CHECK(dtype) << where_ << ": tensor " << name << ": dtype " << e.dtype << " is not supported";
  DR_CHECK(e.shape.size() <= Shape::kMaxRank)
      << where_ << ": tensor " << name << ": rank " << e.shape.size() << " is more than "
      << Shape::kMaxRank;
  const Shape shape{std::span<const std::int64_t>(e.shape)};
  std::byte* data = mapping_->data + data_begin_ + e.begin;
  const std::size_t bytes = static_cast<std::size_t>(e.end - e.begin);
  if (reinterpret_cast<std::uintptr_t>(data) % size_of(*dtype) != 0) {
    Tensor copy = Tensor::empty(shape, *dtype);
    std::memcpy(copy.data<std::byte>(), data, bytes);
    return copy;
  }
  return Tensor(Buffer::borrow(data, bytes, mapping_), data, *dtype, shape);
}

void SafetensorsFile::drop(const std::string& name) const {
  const SafetensorsEntry& e = entry(name);
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto base = reinterpret_cast<std::uintptr_t>(mapping_->data) + data_begin_;
  const std::uintptr_t begin = (base + e.begin + page - 1) / page * page;
  const std::uintptr_t end = (base + e.end) / page * page;
  // A page shared with a neighbour stays. Failure only costs memory, so it is not an error.
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace dream_r
