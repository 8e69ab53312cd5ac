// JSON as strict as the standard and no deeper than 64 levels. Input is untrusted.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common.h"

namespace pl {

class Json {
 public:
  enum Kind { Null, Bool, Number, String, Array, Object };

  Kind kind = Null;
  bool truth = false;
  double number = 0;
  int64_t integer = 0;       // valid where is_integer
  bool is_integer = false;
  std::string text;
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;  // in file order; names are unique

  // Defined where the class is whole: clang asks for that, with vectors of it inside.
  Json();
  Json(const Json&);
  Json(Json&&) noexcept;
  Json& operator=(const Json&);
  Json& operator=(Json&&) noexcept;
  ~Json();

  // Throws Error naming `what` and the place.
  static Json parse(std::string_view text, const std::string& what);

  const Json* find(std::string_view name) const;
  bool is_null() const { return kind == Null; }

  // Members with a default. Throw where the member has another type or an impossible value.
  int64_t get_int(std::string_view name, int64_t otherwise) const;
  double get_number(std::string_view name, double otherwise) const;
  bool get_bool(std::string_view name, bool otherwise) const;
  std::string get_text(std::string_view name, const std::string& otherwise) const;
};

}  // namespace pl
