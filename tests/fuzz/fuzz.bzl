"""Fuzz targets: one entry point, linked into a libFuzzer program and into an ordinary test."""

load("//tools:cc.bzl", "cc_binary", "cc_library", "cc_test")

def fuzz_target(name, srcs, deps, tags = [], random_inputs = 5000, max_len = 4096):
    """One fuzz target: NAME_fuzz for ../../fuzz and NAME_fuzz_test for everybody.

    Args:
      name: of the target; its corpus is the folder corpus/NAME.
      srcs: define LLVMFuzzerTestOneInput().
      deps: what it fuzzes.
      tags: further ones of the test, "concurrent" for example.
      random_inputs: pseudo-random inputs that the test makes up, and as many mutations of the corpus.
      max_len: of an input, in bytes.
    """
    cc_library(
        name = name + "_entry",
        srcs = srcs,
        deps = deps + ["//tests/fuzz:input"],
        alwayslink = True,
    )
    cc_binary(
        name = name + "_fuzz",
        # The driver is clang, not clang++: without the second, the part of the undefined-behaviour sanitizer that is for
        # C++ (virtual calls, std::function) is missing.
        linkopts = [
            "-fsanitize=fuzzer",
            "-fsanitize-link-c++-runtime",
        ],
        tags = ["manual"],
        deps = [":" + name + "_entry"],
    )
    cc_test(
        name = name + "_fuzz_test",
        size = "small",
        args = [
            "--corpus=" + native.package_name() + "/corpus/" + name,
            "--random-inputs=%d" % random_inputs,
            "--max-len=%d" % max_len,
        ],
        data = native.glob(["corpus/" + name + "/**"]),
        tags = ["memory"] + tags,
        deps = [
            ":" + name + "_entry",
            "//tests/fuzz:replay",
        ],
    )
