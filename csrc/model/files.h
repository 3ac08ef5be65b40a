#pragma once
#include <filesystem>
#include <string>

#include "model/json.h"

namespace dream_r {

// A whole JSON file; Error naming it when it cannot be read or is larger than any sane config.
Json read_json_file(const std::filesystem::path& path);

}  // namespace dream_r
