"""Warnings of our own code: all of them are errors."""

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
]

COPTS = _WARNINGS + select({
    "//tools:clang": [
        "-Wthread-safety",
        "-Wthread-safety-beta",
    ],
    "//conditions:default": [],
})
