#include "model/files.h"

#include <fstream>

#include "core/check.h"

namespace dream_r {

Json read_json_file(const std::filesystem::path& path) {
  constexpr std::uintmax_t kMaxBytes = 64u << 20;
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  DR_CHECK(!error) << path.string() << ": cannot be read (" << error.message() << ")";
  DR_CHECK(bytes <= kMaxBytes) << path.string() << ": " << bytes << " bytes is too large";
  std::string text(static_cast<std::size_t>(bytes), '\0');
  std::ifstream in(path, std::ios::binary);
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  DR_CHECK(in.good() || text.empty()) << path.string() << ": cannot be read";
  return Json::parse(text, path.string());
}

}  // namespace dream_r
