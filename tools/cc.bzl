"""The rules of C++ for our own code: its warnings, which are errors, and headers that are compiled once."""

load(
    "@rules_cc//cc:defs.bzl",
    _cc_binary = "cc_binary",
    _cc_library = "cc_library",
    _cc_test = "cc_test",
)
load("//tools:precompiled.bzl", "PRECOMPILED", "PRECOMPILED_FOR_TESTS")

_WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wpedantic",
    "-Wshadow",
    "-Wnon-virtual-dtor",
    "-Woverloaded-virtual",
    "-Wimplicit-fallthrough",
    "-Wno-missing-field-initializers",
] + select({
    "//tools:clang": [
        "-Wthread-safety",
        "-Wthread-safety-beta",
    ],
    "//conditions:default": [],
})

def cc_library(copts = [], deps = [], **kwargs):
    _cc_library(copts = _WARNINGS + PRECOMPILED.copts + copts, deps = deps + PRECOMPILED.deps, **kwargs)

def cc_binary(copts = [], deps = [], precompiled = True, **kwargs):
    """A program.

    Args:
      copts: as everywhere.
      deps: as everywhere.
      precompiled: False when copts choose another processor, which the precompiled headers are not for.
      **kwargs: as everywhere.
    """
    headers = PRECOMPILED if precompiled else struct(copts = [], deps = [])
    _cc_binary(copts = _WARNINGS + headers.copts + copts, deps = deps + headers.deps, **kwargs)

def cc_test(copts = [], deps = [], optimized = False, **kwargs):
    """A test.

    Args:
      copts: as everywhere.
      deps: as everywhere.
      optimized: whether its own code is worth a compiler's time. Most tests spend theirs in what they test.
      **kwargs: as everywhere.
    """
    precompiled = PRECOMPILED if optimized else PRECOMPILED_FOR_TESTS
    _cc_test(copts = _WARNINGS + precompiled.copts + copts, deps = deps + precompiled.deps, **kwargs)
