"""Headers of the system that are compiled once instead of in every source: half of what a build would cost."""

load("@bazel_tools//tools/build_defs/cc:action_names.bzl", "CPP_COMPILE_ACTION_NAME")
load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")

def _precompiled_header_impl(ctx):
    toolchain = find_cpp_toolchain(ctx)
    features = cc_common.configure_features(ctx = ctx, cc_toolchain = toolchain)
    variables = cc_common.create_compile_variables(
        feature_configuration = features,
        cc_toolchain = toolchain,
        user_compile_flags = ctx.fragments.cpp.copts + ctx.fragments.cpp.cxxopts + ctx.attr.copts,
        use_pic = True,
    )
    output = ctx.actions.declare_file(ctx.label.name + ".pch")

    # Read from stdin, written to stdout and compiled in a folder that everybody has, the result knows nothing of where it
    # was made: another clone makes the same, and nothing that was compiled with it is compiled again.
    ctx.actions.run_shell(
        inputs = depset(ctx.files.srcs, transitive = [toolchain.all_files]),
        outputs = [output],
        arguments = [
            " ".join([src.path for src in ctx.files.srcs]),
            output.path,
            cc_common.get_tool_for_action(feature_configuration = features, action_name = CPP_COMPILE_ACTION_NAME),
        ] + cc_common.get_memory_inefficient_command_line(
            feature_configuration = features,
            action_name = CPP_COMPILE_ACTION_NAME,
            variables = variables,
        ) + ["-Xclang", "-fpch-instantiate-templates", "-x", "c++-header", "-", "-o", "-"],
        command = 'cat $1 | (output="$PWD/$2"; shift 2; cd / && exec "$@" >"$output")',
        env = cc_common.get_environment_variables(
            feature_configuration = features,
            action_name = CPP_COMPILE_ACTION_NAME,
            variables = variables,
        ),
        mnemonic = "CppPrecompile",
    )
    return [
        DefaultInfo(files = depset([output])),
        CcInfo(compilation_context = cc_common.create_compilation_context(headers = depset([output]))),
    ]

precompiled_header = rule(
    doc = "SRCS, one after the other, compiled for -include-pch, with the flags of every C++ source. Clang only.",
    implementation = _precompiled_header_impl,
    attrs = {
        "srcs": attr.label_list(mandatory = True, allow_files = [".h"]),
        "copts": attr.string_list(doc = "flags after all others"),
        "_cc_toolchain": attr.label(default = "@bazel_tools//tools/cpp:current_cc_toolchain"),
    },
    fragments = ["cpp"],
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
)

def _use(name, copts):
    return struct(
        copts = select({
            "//tools:clang": copts + ["-include-pch", "$(BINDIR)/tools/%s.pch" % name],
            "//conditions:default": copts,
        }),
        deps = select({
            "//tools:clang": ["//tools:" + name],
            "//conditions:default": [],
        }),
    )

# For a rule's copts and deps.
PRECOMPILED = _use("precompiled", [])
PRECOMPILED_FOR_TESTS = _use("precompiled_for_tests", ["-O0"])
