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
  const std::string type = tensors.config.get_text("model_type", "");
  if (options.packing.group < 0) options.packing.group = is_encoder(type) && options.packing.bits == 8 ? 0 : 64;
  if (is_encoder(type)) return std::make_shared<Bert>(std::move(tensors), options);
  return std::make_shared<Llama>(std::move(tensors), options);
}

}  // namespace pl
