#include "files.h"

namespace pl {
namespace {

bool ends(const std::string& text, const char* end) {
  const size_t n = std::strlen(end);
  return text.size() > n && text.compare(text.size() - n, n, end) == 0;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (uint8_t(c) >= 0x20) out += c;
  }
  return out + "\"";
}

// The matrix in few bits that a tensor is a part of; empty where there is none.
std::string packed_name(const Tensors& tensors, const std::string& key) {
  for (size_t dot = key.rfind('.'); dot != std::string::npos && dot > 0; dot = key.rfind('.', dot - 1)) {
    const std::string stem = key.substr(0, dot);
    if (tensors.metadata.count("paperlab." + stem) && tensors.find(stem + ".codes")) return stem;
  }
  return "";
}

}  // namespace

void Files::add(const std::string& name, About about) {
  if (!all_.emplace(name, std::move(about)).second) fail("%s is there twice, plainly and in few bits", name.c_str());
}

Files::Files(const std::string& path) : tensors_(open_model(path)) {
  for (const auto& [key, tensor] : tensors_.by_name) {
    if (const std::string stem = packed_name(tensors_, key); !stem.empty()) {
      if (key == stem + ".bias") add(key, {tensor.shape, tensor.dtype});
      if (key != stem + ".codes") continue;
      const Json said = Json::parse(tensors_.metadata.at("paperlab." + stem), "the description of " + stem);
      About about{{said.get_int("rows", 0), said.get_int("columns", 0)}, "packed"};
      check_layout(int(said.get_int("bits", 0) & 255), about.shape[0], about.shape[1], said.get_int("group", 0), false, false);
      about.bits = int(said.get_int("bits", 0)), about.group = said.get_int("group", 0);
      about.symmetric = said.get_bool("symmetric", true), about.sparse = said.get_bool("sparse", false);
      if (about.group >= said.get_int("kept_columns", about.shape[1])) about.group = 0;
      about.beside = said.get_int("rank", 0) > 0 || said.get_int("outliers", 0) > 0 || said.find("kept_rows") || said.find("kept_columns");
      add(stem + ".weight", about);
    } else if (ends(key, ".weight_packed")) {
      const std::string stem = key.substr(0, key.size() - std::strlen("_packed"));
      const Tensor& shape = tensors_.need(stem + "_shape");
      const Tensor& scale = tensors_.need(stem + "_scale");
      if (shape.count() != 2 || (shape.dtype != "I64" && shape.dtype != "I32") || tensor.shape.size() != 2 || scale.shape.size() != 2)
        fail("%s_shape, _scale and _packed do not describe a matrix", stem.c_str());
      const auto side = [&](int i) {
        int64_t value = 0;
        std::memcpy(&value, shape.data + i * (shape.dtype == "I64" ? 8 : 4), shape.dtype == "I64" ? 8 : 4);
        return value;
      };
      About about{{side(0), side(1)}, "pack-quantized"};
      check_layout(8, about.shape[0], about.shape[1], 64, false, false);
      about.bits = tensor.shape[1] == (about.shape[1] + 7) / 8 ? 4 : 8;
      about.group = scale.shape[1] > 1 ? about.shape[1] / scale.shape[1] : 0;
      about.symmetric = !tensors_.find(stem + "_zero_point");
      add(stem, about);
    } else if (!ends(key, ".weight_scale") && !ends(key, ".weight_shape") && !ends(key, ".weight_zero_point")) {
      About about{tensor.shape, tensor.dtype};
      if (tensor.shape.size() == 2 && (tensor.dtype == "Q4_0" || tensor.dtype == "Q4_1" || tensor.dtype == "Q8_0")) {
        about.bits = tensor.dtype == "Q8_0" ? 8 : 4, about.group = 32;
        about.symmetric = tensor.dtype != "Q4_1";
      }
      add(key, about);
    }
  }
  list_ = "{";
  for (const auto& [name, about] : all_) {
    std::string shape;
    for (const int64_t n : about.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(n);
    list_ += (list_.size() > 1 ? ", " : "") + quoted(name) + ": {\"shape\": [" + shape + "], \"dtype\": " + quoted(about.dtype);
    if (about.bits)
      list_ += ", \"bits\": " + std::to_string(about.bits) + ", \"group\": " + std::to_string(about.group) +
               ", \"symmetric\": " + (about.symmetric ? "true" : "false") + ", \"sparse\": " + (about.sparse ? "true" : "false") +
               ", \"beside\": " + (about.beside ? "true" : "false");
    list_ += "}";
  }
  list_ += "}";
}

const Files::About& Files::about(const std::string& name) const {
  const auto at = all_.find(name);
  if (at == all_.end()) fail("the tensor %s is missing from the model's files", name.c_str());
  return at->second;
}

Matrix& Files::matrix(const std::string& name) {
  if (open_ == name) return matrix_;
  const About& what = about(name);
  open_.clear();
  matrix_ = load_matrix(tensors_, name.substr(0, name.size() - std::strlen(".weight")), what.shape[0], what.shape[1], {});
  open_ = name;
  return matrix_;
}

void Files::read(const std::string& name, int64_t first, int64_t last, float* out) {
  const About& what = about(name);
  if (what.shape.size() != 2 || !ends(name, ".weight")) {
    const Tensor& tensor = tensors_.need(name);
    if (first != 0 || last != 1) fail("%s has no rows", name.c_str());
    return to_float(tensor, 0, tensor.count(), out);
  }
  if (first < 0 || last < first || last > what.shape[0]) fail("%s has no rows %lld to %lld", name.c_str(), (long long)first, (long long)last);
  if (const Tensor* whole = tensors_.find(name)) return to_float(*whole, first * what.shape[1], (last - first) * what.shape[1], out);  // exact
  const Matrix& from = matrix(name);
  for (int64_t row = first; row < last; ++row) from.row(row, out + (row - first) * what.shape[1]);
}

void Files::scales(const std::string& name, uint16_t* scales, uint16_t* mins) {
  if (!about(name).bits) fail("%s is stored as floats: it has no scales", name.c_str());
  const Matrix& from = matrix(name);
  if (!from.tiled) fail("%s is not stored in groups", name.c_str());
  const TileView& v = from.tiles;
  for (int64_t row = 0; row < v.rows; ++row)
    for (int64_t group = 0; group < v.groups(); ++group) {
      const int64_t at = (row / 16 * v.groups() + group) * 16 + row % 16;
      scales[row * v.groups() + group] = v.scales[at];
      if (v.mins) mins[row * v.groups() + group] = v.mins[at];
    }
}

}  // namespace pl
