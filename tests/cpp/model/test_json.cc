#include "model/json.h"

#include <string>

#include "core/check.h"
#include "doctest.h"

using dream_r::Error;
using dream_r::Json;

namespace {
Json parse(const std::string& text) { return Json::parse(text, "here"); }
}  // namespace

TEST_CASE("json: values") {
  const Json j = parse(R"( {"a": [1, -2.5, 1e3, true, false, null], "b": {"c": "x"}} )");
  const auto& a = j.find("a")->array();
  REQUIRE(a.size() == 6);
  CHECK(a[0].is(Json::Type::integer));
  CHECK(a[0].integer() == 1);
  CHECK(a[1].real() == -2.5);
  CHECK(a[2].real() == 1000.0);
  CHECK(a[3].boolean());
  CHECK_FALSE(a[4].boolean());
  CHECK(a[5].is(Json::Type::null));
  CHECK(j.find("b")->find("c")->string() == "x");
  CHECK(j.find("d") == nullptr);
}

TEST_CASE("json: whole numbers keep all 64 bits, larger ones become real") {
  CHECK(parse("9223372036854775807").integer() == 9223372036854775807LL);
  CHECK(parse("9223372036854775808").is(Json::Type::real));
  CHECK(parse("-9223372036854775808").integer() == INT64_MIN);
}

TEST_CASE("json: escapes") {
  CHECK(parse(R"("\"\\\/\b\f\n\r\t")").string() == "\"\\/\b\f\n\r\t");
  CHECK(parse(R"("\u0041\u00e9\u20ac\ud83d\ude00")").string() ==
        "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
}

TEST_CASE("json: what is refused") {
  const char* bad[] = {"",
                       "{",
                       "[1,]",
                       "{\"a\":1,}",
                       "{a:1}",
                       "01",
                       "1.",
                       ".5",
                       "+1",
                       "1e",
                       "1e999",
                       "tru",
                       "\"a",
                       "\"\\x\"",
                       "\"\\u12\"",
                       "\"\n\"",
                       "1 2",
                       "{\"a\" 1}",
                       "[1 2]",
                       "\"\\ud800\"",
                       "\"\\udc00\"",
                       "NaN",
                       "Infinity",
                       "-",
                       "\"\\ud800\\u0041\""};
  for (const char* text : bad) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse(text), Error);
  }
  CHECK_THROWS_AS(parse(std::string(100, '[') + std::string(100, ']')), Error);
  CHECK_NOTHROW(parse(std::string(60, '[') + std::string(60, ']')));
}

TEST_CASE("json: a duplicate key is named") {
  CHECK_THROWS_WITH(parse(R"({"a": 1, "b": 2, "a": 3})"), "here: \"a\" is there twice");
}
