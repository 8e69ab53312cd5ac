#include "model.h"

#include <sched.h>

#include "dispatch.h"

namespace pl {
namespace {

int cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n ? int(n) : 1;
}

int checked_threads(int threads) {
  if (threads < 0 || threads > 1024) fail("%d threads; 1 to 1024 are possible, 0 takes one per core", threads);
  return threads ? threads : cores();
}

}  // namespace

Model::Model(const Options& options)
    : runtime(options.isa.empty() ? kernels_here() : kernels_named(options.isa), checked_threads(options.threads),
              options.activation_bits / 8) {}

std::shared_ptr<Model> load_model(const std::string& path, Options options) {
  Tensors tensors = open_model(path);
  if (const Json* quantized = tensors.config.find("quantization_config"); quantized && !quantized->is_null()) {
    const std::string method = quantized->get_text("quant_method", "?"), format = quantized->get_text("format", "?");
    // A packed model says "paperlab", so that other readers leave it; what is in it, each matrix's metadata says.
    if (method != "paperlab" && (method != "compressed-tensors" || format != "pack-quantized"))
      fail("%s is quantized by \"%s\" in the format \"%s\"; known is pack-quantized of compressed-tensors, or give the original weights",
           path.c_str(), method.substr(0, 40).c_str(), format.substr(0, 40).c_str());
  }
  const std::string type = tensors.config.get_text("model_type", "");
  if (options.packing.group < 0) options.packing.group = is_encoder(type) && options.packing.bits == 8 ? 0 : 64;
  if (is_encoder(type)) return std::make_shared<Bert>(std::move(tensors), options);
  return std::make_shared<Llama>(std::move(tensors), options);
}

}  // namespace pl
