#include "json.h"

#include <charconv>
#include <cmath>
#include <set>

namespace pl {

Json::Json() = default;
Json::Json(const Json&) = default;
Json::Json(Json&&) noexcept = default;
Json& Json::operator=(const Json&) = default;
Json& Json::operator=(Json&&) noexcept = default;
Json::~Json() = default;

void fail(const char* format, ...) {
  char message[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  throw Error(message);
}

namespace {

constexpr int kDepth = 64;

struct Parser {
  std::string_view text;
  const std::string& what;
  size_t at = 0;

  [[noreturn]] void bad(const char* why) const { fail("%s: not valid JSON at byte %zu: %s", what.c_str(), at, why); }

  void space() {
    while (at < text.size() && (text[at] == ' ' || text[at] == '\n' || text[at] == '\t' || text[at] == '\r')) ++at;
  }

  char peek() const { return at < text.size() ? text[at] : '\0'; }

  void word(std::string_view expected) {
    if (text.substr(at, expected.size()) != expected) bad("unknown word");
    at += expected.size();
  }

  unsigned hex4() {
    unsigned code = 0;
    for (int i = 0; i < 4; ++i, ++at) {
      const char c = peek();
      code <<= 4;
      if (c >= '0' && c <= '9') code |= c - '0';
      else if (c >= 'a' && c <= 'f') code |= c - 'a' + 10;
      else if (c >= 'A' && c <= 'F') code |= c - 'A' + 10;
      else bad("a \\u escape needs four hexadecimal digits");
    }
    return code;
  }

  void utf8(unsigned code, std::string& out) {
    if (code < 0x80) {
      out += char(code);
    } else if (code < 0x800) {
      out += char(0xc0 | code >> 6);
      out += char(0x80 | (code & 63));
    } else if (code < 0x10000) {
      out += char(0xe0 | code >> 12);
      out += char(0x80 | (code >> 6 & 63));
      out += char(0x80 | (code & 63));
    } else {
      out += char(0xf0 | code >> 18);
      out += char(0x80 | (code >> 12 & 63));
      out += char(0x80 | (code >> 6 & 63));
      out += char(0x80 | (code & 63));
    }
  }

  std::string string() {
    std::string out;
    ++at;
    for (;;) {
      if (at >= text.size()) bad("text without an end");
      const unsigned char c = text[at];
      if (c == '"') {
        ++at;
        return out;
      }
      if (c < 0x20) bad("control character in text");
      if (c != '\\') {
        out += char(c);
        ++at;
        continue;
      }
      ++at;
      const char escape = peek();
      ++at;
      switch (escape) {
        case '"': case '\\': case '/': out += escape; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'u': {
          unsigned code = hex4();
          if (code >= 0xd800 && code < 0xdc00 && text.substr(at, 2) == "\\u") {
            at += 2;
            const unsigned low = hex4();
            if (low < 0xdc00 || low > 0xdfff) bad("half of a surrogate pair");
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
          }
          utf8(code, out);
          break;
        }
        default: bad("unknown escape");
      }
    }
  }

  void digits() {
    if (peek() < '0' || peek() > '9') bad("a digit was expected");
    while (peek() >= '0' && peek() <= '9') ++at;
  }

  Json number() {
    Json value;
    value.kind = Json::Number;
    const size_t start = at;
    if (peek() == '-') ++at;
    if (peek() == '0') ++at;
    else digits();
    bool whole = true;
    if (peek() == '.') {
      whole = false;
      ++at;
      digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      whole = false;
      ++at;
      if (peek() == '+' || peek() == '-') ++at;
      digits();
    }
    const char *first = text.data() + start, *last = text.data() + at;
    const auto read = std::from_chars(first, last, value.number);
    if (read.ec != std::errc() && read.ec != std::errc::result_out_of_range) bad("not a number");
    if (whole) value.is_integer = std::from_chars(first, last, value.integer).ec == std::errc();
    if (!whole && std::fabs(value.number) < 9e15 && value.number == std::floor(value.number)) {
      value.integer = int64_t(value.number);
      value.is_integer = true;
    }
    return value;
  }

  Json value(int depth) {
    if (depth > kDepth) bad("nested too deep");
    space();
    Json out;
    switch (peek()) {
      case '{': {
        out.kind = Json::Object;
        ++at;
        std::set<std::string, std::less<>> seen;
        space();
        if (peek() == '}') {
          ++at;
          return out;
        }
        for (;;) {
          space();
          if (peek() != '"') bad("a name was expected");
          std::string name = string();
          if (!seen.insert(name).second) bad("a name occurs twice");
          space();
          if (peek() != ':') bad("':' was expected");
          ++at;
          out.members.emplace_back(std::move(name), value(depth + 1));
          space();
          if (peek() == ',') {
            ++at;
            continue;
          }
          if (peek() != '}') bad("',' or '}' was expected");
          ++at;
          return out;
        }
      }
      case '[': {
        out.kind = Json::Array;
        ++at;
        space();
        if (peek() == ']') {
          ++at;
          return out;
        }
        for (;;) {
          out.items.push_back(value(depth + 1));
          space();
          if (peek() == ',') {
            ++at;
            continue;
          }
          if (peek() != ']') bad("',' or ']' was expected");
          ++at;
          return out;
        }
      }
      case '"':
        out.kind = Json::String;
        out.text = string();
        return out;
      case 't': word("true"); out.kind = Json::Bool; out.truth = true; return out;
      case 'f': word("false"); out.kind = Json::Bool; return out;
      case 'n': word("null"); return out;
      default: return number();
    }
  }
};

}  // namespace

Json Json::parse(std::string_view text, const std::string& what) {
  Parser parser{text, what};
  Json value = parser.value(0);
  parser.space();
  if (parser.at != text.size()) parser.bad("something follows the value");
  return value;
}

const Json* Json::find(std::string_view name) const {
  for (const auto& [key, value] : members)
    if (key == name) return &value;
  return nullptr;
}

int64_t Json::get_int(std::string_view name, int64_t otherwise) const {
  const Json* value = find(name);
  if (!value || value->is_null()) return otherwise;
  if (value->kind != Number || !value->is_integer) fail("\"%s\" should be an integer", std::string(name).c_str());
  return value->integer;
}

double Json::get_number(std::string_view name, double otherwise) const {
  const Json* value = find(name);
  if (!value || value->is_null()) return otherwise;
  if (value->kind != Number) fail("\"%s\" should be a number", std::string(name).c_str());
  return value->number;
}

bool Json::get_bool(std::string_view name, bool otherwise) const {
  const Json* value = find(name);
  if (!value || value->is_null()) return otherwise;
  if (value->kind != Bool) fail("\"%s\" should be true or false", std::string(name).c_str());
  return value->truth;
}

std::string Json::get_text(std::string_view name, const std::string& otherwise) const {
  const Json* value = find(name);
  if (!value || value->is_null()) return otherwise;
  if (value->kind != String) fail("\"%s\" should be text", std::string(name).c_str());
  return value->text;
}

}  // namespace pl
