#include "tensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <set>

#include "share.h"

namespace pl {
namespace {

#if defined(__linux__)
// The number after `name` in a file of the kernel's; `otherwise` where there is none.
uint64_t number_in(const char* path, const char* name, uint64_t otherwise) {
  FILE* file = std::fopen(path, "re");
  if (!file) return otherwise;
  char line[256];
  unsigned long long value = otherwise;
  const size_t length = std::strlen(name);
  while (std::fgets(line, sizeof line, file))
    if (std::strncmp(line, name, length) == 0 && std::sscanf(line + length, "%llu", &value) == 1) break;
  std::fclose(file);
  return value;
}

// Memory that may still be taken: what the machine can give without swapping, its file caches included, and no more than
// what a container leaves.
uint64_t memory_left() {
  const uint64_t machine = number_in("/proc/meminfo", "MemAvailable:", 0) * 1024;
  const uint64_t most = number_in("/sys/fs/cgroup/memory.max", "", UINT64_MAX);
  const uint64_t held = most == UINT64_MAX ? 0 : number_in("/sys/fs/cgroup/memory.stat", "anon ", 0);
  return std::min(machine, most - std::min(held, most));
}
#endif

}  // namespace

Mapped::Mapped(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail("cannot open %s: %s", path.c_str(), std::strerror(errno));
  struct stat about {};
  if (fstat(file, &about) != 0 || !S_ISREG(about.st_mode)) {
    close(file);
    fail("%s is not a file", path.c_str());
  }
  size_ = uint64_t(about.st_size);
  if (size_) {
    void* at = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    if (at == MAP_FAILED) {
      const int why = errno;
      close(file);
      fail("cannot map %s: %s", path.c_str(), std::strerror(why));
    }
    data_ = static_cast<const uint8_t*>(at);
    taken_ = size_;
  }
  close(file);
}

Mapped::~Mapped() {
  if (data_) munmap(const_cast<uint8_t*>(data_), taken_);
}

void Mapped::settle(const std::string& path) {
#if defined(__linux__)
  constexpr uint64_t kLarge = uint64_t(2) << 20;
  if (size_ < kLarge || taken_ != size_) return;
  if (memory_left() / 2 < size_) return;
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  const uint64_t room = round_up(int64_t(size_), kLarge), taken = room + kLarge;
  void* at = mmap(nullptr, taken, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return void(close(file));
  // Trimmed to whole large pages.
  uint8_t* begin = static_cast<uint8_t*>(at);
  const uint64_t skip = (kLarge - reinterpret_cast<uintptr_t>(begin) % kLarge) % kLarge;
  if (skip) munmap(begin, skip);
  if (skip < kLarge) munmap(begin + skip + room, kLarge - skip);
  begin += skip;
  madvise(begin, room, MADV_HUGEPAGE);
  constexpr int64_t kStep = int64_t(4) << 20;
  std::atomic<bool> whole{true};
  share_rows(int64_t(size_), kStep, [&](int64_t from, int64_t to) {
    while (from < to) {
      const ssize_t got = pread(file, begin + from, size_t(to - from), off_t(from));
      if (got <= 0) return whole.store(false);
      from += got;
    }
  });
  close(file);
  if (!whole) return void(munmap(begin, room));  // what is mapped stays
  munmap(const_cast<uint8_t*>(data_), taken_);
  data_ = begin, taken_ = room, settled_ = true;
#else
  (void)path;
#endif
}

void Mapped::release(const uint8_t* from, uint64_t bytes) const {
  if (settled_ || from < data_ || from + bytes > data_ + size_) return;
  const uint64_t page = uint64_t(sysconf(_SC_PAGESIZE));
  const uint64_t begin = uint64_t(round_up(from - data_, int64_t(page))), end = uint64_t(from - data_) + bytes;
  if (begin < end / page * page) madvise(const_cast<uint8_t*>(data_) + begin, end / page * page - begin, MADV_DONTNEED);
}

const Tensor* Tensors::find(std::string_view name) const {
  const auto at = by_name.find(name);
  return at == by_name.end() ? nullptr : &at->second;
}

const Tensor& Tensors::need(std::string_view name) const {
  const Tensor* tensor = find(name);
  if (!tensor) fail("the tensor %s is missing from the model's files", std::string(name).c_str());
  return *tensor;
}

void Tensors::release(const Tensor& tensor) const {
  for (const auto& file : files) file->release(tensor.data, tensor.bytes);
}

namespace {

constexpr uint64_t kHeader = 100'000'000;  // the limit that safetensors itself sets

uint64_t width_of(const std::string& dtype) {
  static const std::map<std::string, uint64_t> widths = {
      {"BOOL", 1}, {"U8", 1}, {"I8", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
      {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4}, {"I64", 8}, {"U64", 8}, {"F64", 8}};
  const auto at = widths.find(dtype);
  return at == widths.end() ? 0 : at->second;
}

std::string read_text(const std::string& path) {
  const Mapped file(path);
  if (file.size() > kHeader) fail("%s is too large", path.c_str());
  return std::string(reinterpret_cast<const char*>(file.data()), file.size());
}

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

bool says_nothing(const Json& value) {
  return value.is_null() || (value.kind == Json::Bool && !value.truth) || ((value.kind == Json::Object) && value.members.empty()) ||
         (value.kind == Json::Array && value.items.empty());
}

bool one_of(const std::string& text, std::initializer_list<const char*> all) {
  return std::any_of(all.begin(), all.end(), [&](const char* one) { return text == one; });
}

// What a folder's configuration says of how its weights are quantized: all of it is obeyed, or refused by name.
void check_quantization(const Json& config, const std::string& path) {
  const Json* found = config.find("quantization_config");
  if (!found || found->is_null()) found = config.find("compression_config");  // as compressed-tensors once had it
  if (!found || found->is_null()) return;
  const std::string method = found->get_text("quant_method", "?"), format = found->get_text("format", "?");
  // A packed model says "paperlab", so that other readers leave it; what is in it, each matrix's metadata says.
  if (method == "paperlab") return;
  if (method != "compressed-tensors" || format != "pack-quantized")
    fail("%s is quantized by \"%s\" in the format \"%s\"; known is pack-quantized of compressed-tensors, or give the original weights",
         path.c_str(), method.substr(0, 40).c_str(), format.substr(0, 40).c_str());
  const auto refuse = [&](const std::string& part) {
    fail("%s: its quantization_config has %s, which is not obeyed here; give the original weights", path.c_str(), part.substr(0, 80).c_str());
  };
  for (const auto& [key, value] : found->members) {
    if (says_nothing(value)) continue;
    if (key == "transform_config" || key == "sparsity_config") {  // they may be there and ask for nothing
      const Json* groups = value.find("config_groups");
      const bool idle = key == "transform_config" ? value.kind == Json::Object && (!groups || says_nothing(*groups))
                                                  : value.get_text("format", "?") == "dense";
      if (!idle) refuse(key);
    } else if (key == "config_groups") {
      if (value.kind != Json::Object) refuse(key);
      for (const auto& [name, group] : value.members)
        for (const auto& [part, about] : group.members) {
          const std::string where = key + "." + name + "." + part;
          if (says_nothing(about) || part == "targets") continue;
          if (part == "format" && about.text == format) continue;
          if (part != "weights" || about.kind != Json::Object) refuse(where);
          for (const auto& [field, is] : about.members) {
            const bool known = says_nothing(is) || one_of(field, {"group_size", "observer", "observer_kwargs", "scale_dtype", "zp_dtype"}) ||
                               (field == "symmetric" && is.truth) || (field == "type" && is.text == "int") ||
                               (field == "num_bits" && (is.integer == 4 || is.integer == 8)) ||
                               (field == "strategy" && one_of(is.text, {"group", "channel"})) ||
                               (field == "actorder" && one_of(is.text, {"weight", "static"}));
            if (!known) refuse(where + "." + field);
          }
        }
    } else if (!one_of(key, {"quant_method", "format", "ignore", "quantization_status", "global_compression_ratio", "version", "run_compressed"})) {
      refuse(key);
    }
  }
}

}  // namespace

void read_safetensors(const std::string& path, Tensors& into) {
  auto file = std::make_shared<Mapped>(path);
  const char* name = path.c_str();
  if (file->size() < 8) fail("%s is no safetensors file: shorter than its length field", name);
  uint64_t length;
  std::memcpy(&length, file->data(), 8);
  if (length > kHeader) fail("%s is no safetensors file: its header would take %llu bytes", name, (unsigned long long)length);
  if (length > file->size() - 8) fail("%s is cut off inside its header; fetch it again", name);
  const Json header = Json::parse({reinterpret_cast<const char*>(file->data()) + 8, length}, path);
  if (header.kind != Json::Object) fail("%s: its header is no object", name);
  const Json* described = header.find("__metadata__");
  for (const auto& [field, value] : described ? described->members : std::vector<std::pair<std::string, Json>>())
    if (field.starts_with("paperlab.")) {  // weights that are multiplied as they lie
      file->settle(path);
      break;
    }
  const uint8_t* base = file->data() + 8 + length;
  const uint64_t size = file->size() - 8 - length;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [key, entry] : header.members) {
    if (entry.kind != Json::Object) fail("%s: the entry of %s is no object", name, key.c_str());
    if (key == "__metadata__") {
      for (const auto& [field, value] : entry.members) {
        if (value.kind != Json::String) fail("%s: metadata %s is no text", name, field.c_str());
        into.metadata[field] = value.text;
      }
      continue;
    }
    Tensor tensor;
    tensor.dtype = entry.get_text("dtype", "");
    const uint64_t width = width_of(tensor.dtype);
    if (!width) fail("%s: %s has the unknown type \"%s\"", name, key.c_str(), tensor.dtype.c_str());
    const Json *shape = entry.find("shape"), *offsets = entry.find("data_offsets");
    if (!shape || shape->kind != Json::Array || shape->items.size() > 8) fail("%s: %s has no shape", name, key.c_str());
    uint64_t bytes = width;
    for (const Json& item : shape->items) {
      if (!item.is_integer || item.integer < 0) fail("%s: %s has an impossible shape", name, key.c_str());
      tensor.shape.push_back(item.integer);
      bytes = times(bytes, uint64_t(item.integer));
    }
    if (!offsets || offsets->items.size() != 2 || !offsets->items[0].is_integer || !offsets->items[1].is_integer)
      fail("%s: %s has no data_offsets", name, key.c_str());
    const int64_t begin = offsets->items[0].integer, end = offsets->items[1].integer;
    if (begin < 0 || end < begin || uint64_t(end) > size)
      fail("%s: %s lies outside the file (bytes %lld to %lld of %llu); it is cut off or damaged", name, key.c_str(),
           (long long)begin, (long long)end, (unsigned long long)size);
    if (uint64_t(end - begin) != bytes)
      fail("%s: %s takes %llu bytes by its shape and %lld by its offsets", name, key.c_str(), (unsigned long long)bytes,
           (long long)(end - begin));
    tensor.data = base + begin;
    tensor.bytes = bytes;
    if (bytes) ranges.emplace_back(begin, end);
    if (key.starts_with("paperlab.fill.")) continue;  // it is there for the next one's place
    if (!into.by_name.emplace(key, std::move(tensor)).second) fail("the tensor %s is in two files", key.c_str());
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i)
    if (ranges[i].first < ranges[i - 1].second) fail("%s: two of its tensors overlap", name);
  into.files.push_back(std::move(file));
}

Tensors open_model(const std::string& path) {
  struct stat about {};
  if (stat(path.c_str(), &about) != 0) fail("there is no %s", path.c_str());
  if (S_ISREG(about.st_mode)) {
    if (path.size() < 5 || path.substr(path.size() - 5) != ".gguf")
      fail("%s is a file and no .gguf; give a folder with config.json and *.safetensors, or a .gguf file", path.c_str());
    return read_gguf(path);
  }
  Tensors tensors;
  const std::string config = path + "/config.json", single = path + "/model.safetensors";
  const std::string index = path + "/model.safetensors.index.json";
  if (!exists(config)) fail("no config.json in %s; give the folder that has it", path.c_str());
  tensors.config = Json::parse(read_text(config), config);
  if (tensors.config.kind != Json::Object) fail("%s is no object", config.c_str());
  check_quantization(tensors.config, path);
  if (exists(single)) {
    read_safetensors(single, tensors);
  } else if (exists(index)) {
    const Json list = Json::parse(read_text(index), index);
    const Json* map = list.find("weight_map");
    if (!map || map->kind != Json::Object) fail("%s has no weight_map", index.c_str());
    std::set<std::string> parts;
    for (const auto& [key, part] : map->members) {
      if (part.kind != Json::String || part.text.empty() || part.text.find('/') != std::string::npos)
        fail("%s names a file outside its folder for %s", index.c_str(), key.c_str());
      parts.insert(part.text);
    }
    for (const std::string& part : parts) read_safetensors(path + "/" + part, tensors);
  } else {
    fail("no model.safetensors in %s; pickled weights (*.bin, *.pt) are never loaded", path.c_str());
  }
  return tensors;
}

}  // namespace pl
