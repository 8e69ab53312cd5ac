// Fuzzers of everything that reads a file: PAPERLAB_FUZZ_<KIND> says which of them this program is. An Error is an
// answer; anything else that ends the program is a finding.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "files.h"
#include "model.h"

using namespace pl;

namespace {

// A file in memory that can be opened by its path.
struct Shown {
  int file = memfd_create("fuzz", 0);
  Shown(const uint8_t* data, size_t size) {
    if (file < 0 || ftruncate(file, off_t(size)) != 0 || pwrite(file, data, size, 0) != ssize_t(size)) abort();
  }
  ~Shown() { close(file); }
  std::string path() const { return "/proc/self/fd/" + std::to_string(file); }
};

void run(Tensors&& tensors) {
  Options options;
  options.threads = 1;
  if (tensors.config.get_text("model_type", "") == "bert") return;
  auto model = std::make_shared<Llama>(std::move(tensors), options);
  if (model->config().vocabulary > 1 << 16 || model->config().layers > 8) return;
  Session session(model, 16, 32);
  const int32_t token = 1;
  std::vector<float> logits(size_t(model->config().vocabulary));
  model->forward({{&session, &token, 1}}, Want::Last, logits.data());
}

void fuzz(const uint8_t* data, size_t size) {
#if defined(PAPERLAB_FUZZ_JSON)
  Json::parse({reinterpret_cast<const char*>(data), size}, "input");
#elif defined(PAPERLAB_FUZZ_SAFETENSORS)
  const Shown file(data, size);
  Tensors tensors;
  read_safetensors(file.path(), tensors);
  for (const auto& [name, tensor] : tensors.by_name) {
    std::vector<float> values(size_t(tensor.count()));
    if (tensor.bytes) to_float(tensor, 0, tensor.count(), values.data());
  }
#elif defined(PAPERLAB_FUZZ_GGUF)
  const Shown file(data, size);
  run(read_gguf(file.path()));
#else
  // The settings to a zero byte, then model.safetensors.
  static const std::string folder = [] {
    std::string name = "/dev/shm/paperlab-fuzz-XXXXXX";
    if (!mkdtemp(name.data())) abort();
    return name;
  }();
  const uint8_t* end = static_cast<const uint8_t*>(memchr(data, 0, size));
  if (!end) return;
  const auto put = [&](const char* name, const uint8_t* from, size_t count) {
    FILE* file = fopen((folder + "/" + name).c_str(), "wb");
    if (!file || fwrite(from, 1, count, file) != count) abort();
    fclose(file);
  };
  put("config.json", data, size_t(end - data));
  put("model.safetensors", end + 1, size - size_t(end + 1 - data));
  Files files(folder);
  run(open_model(folder));
#endif
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    fuzz(data, size);
  } catch (const Error&) {
  } catch (const std::bad_alloc&) {
  }
  return 0;
}
