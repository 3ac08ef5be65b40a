#include "model/files.h"
#include "model/safetensors.h"

namespace dream_r {
namespace {

// A shard lies beside its index: no folders, no way out.
bool plain_name(const std::string& file) {
  return !file.empty() && file.find('/') == std::string::npos &&
         file.find('\\') == std::string::npos && file != "." && file != "..";
}

}  // namespace

Checkpoint::Checkpoint(const std::filesystem::path& folder) : where_(folder.string()) {
  const auto single = folder / "model.safetensors";
  const auto index = folder / "model.safetensors.index.json";
  if (std::filesystem::exists(single)) {
    files_.emplace_back(single);
    for (const auto& [name, entry] : files_.back().index()) file_of_[name] = 0;
    return;
  }
  DR_CHECK(std::filesystem::exists(index))
      << where_ << ": neither model.safetensors nor model.safetensors.index.json";
  read_shards(folder, index);
}

void Checkpoint::read_shards(const std::filesystem::path& folder,
                             const std::filesystem::path& index) {
  const Json root = read_json_file(index);
  const Json* map = root.find("weight_map");
  DR_CHECK(map && map->is(Json::Type::object)) << index.string() << ": no weight_map";
  std::map<std::string, std::size_t> opened;
  for (const auto& [name, value] : map->members()) {
    DR_CHECK(value.is(Json::Type::string) && plain_name(value.string()))
        << index.string() << ": tensor " << name << ": bad file name";
    const auto [at, fresh] = opened.try_emplace(value.string(), files_.size());
    if (fresh) files_.emplace_back(folder / value.string());
    DR_CHECK(files_[at->second].index().contains(name))
        << (folder / value.string()).string() << ": tensor " << name << " is missing";
    file_of_[name] = at->second;
  }
}

const SafetensorsFile& Checkpoint::file(const std::string& name) const {
  const auto it = file_of_.find(name);
  DR_CHECK(it != file_of_.end()) << where_ << ": tensor " << name << " is missing";
  return files_[it->second];
}

Tensor Checkpoint::get(const std::string& name) const { return file(name).get(name); }
const SafetensorsEntry& Checkpoint::entry(const std::string& name) const {
  return file(name).index().find(name)->second;
}
void Checkpoint::drop(const std::string& name) const { file(name).drop(name); }

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> all;
  all.reserve(file_of_.size());
  for (const auto& [name, at] : file_of_) all.push_back(name);
  return all;
}

}  // namespace dream_r
