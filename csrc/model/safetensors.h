#pragma once
// Memory-mapped safetensors files. The whole header is checked when a file is opened: lengths,
// types, shapes, offsets that neither overlap nor leave holes, and a data part that is all there.
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace dream_r {

struct SafetensorsEntry {
  std::string dtype;  // as the header spells it: "F32", "BF16", ...
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // bytes in the data part
};

using SafetensorsIndex = std::map<std::string, SafetensorsEntry, std::less<>>;

// The header of a file of `file_bytes` bytes; sets data_begin, the offset of the data part. `head`
// is as much of the file as is at hand: at least the header. Error naming `where` and the tensor.
SafetensorsIndex read_safetensors_header(std::string_view head, std::uint64_t file_bytes,
                                         const std::string& where, std::uint64_t* data_begin);

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  const SafetensorsIndex& index() const { return index_; }
  // A view into the mapping (a copy where the file puts the tensor at an odd address).
  Tensor get(const std::string& name) const;
  // The pages of a tensor are not needed again soon: the kernel may take them back. Reading them
  // afterwards is still right, only slower.
  void drop(const std::string& name) const;

 private:
  struct Mapping;
  const SafetensorsEntry& entry(const std::string& name) const;

  std::string where_;
  std::shared_ptr<Mapping> mapping_;
  std::uint64_t data_begin_ = 0;
  SafetensorsIndex index_;
};

// model.safetensors of a folder, or the shards that model.safetensors.index.json names.
class Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path& folder);
  bool has(const std::string& name) const { return file_of_.contains(name); }
  Tensor get(const std::string& name) const;
  const SafetensorsEntry& entry(const std::string& name) const;
  void drop(const std::string& name) const;
  const std::string& where() const { return where_; }
  std::vector<std::string> names() const;

 private:
  void read_shards(const std::filesystem::path& folder, const std::filesystem::path& index);
  const SafetensorsFile& file(const std::string& name) const;

  std::string where_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t> file_of_;
};

}  // namespace dream_r
