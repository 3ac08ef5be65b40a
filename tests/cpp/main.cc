#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "doctest.h"

// Sanitizers end the process where an allocation cannot be had; the tests ask for the error.
#define DR_EXPORT extern "C" __attribute__((visibility("default")))
DR_EXPORT const char* __asan_default_options() { return "allocator_may_return_null=1"; }
DR_EXPORT const char* __tsan_default_options() { return "allocator_may_return_null=1"; }
