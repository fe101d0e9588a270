"""C++ from .proto files with the system's protoc."""

load("//tools:cc.bzl", "cc_library")

_ROOTS = [
    "proto",
    "third_party/googleapis",
]

def cc_proto(name, src, deps = [], grpc = False, visibility = None):
    """One .proto file as a cc_library.

    Args:
      name: the library; its sources are also the filegroup NAME_src.
      src: the file, relative to the package, which is one of the import roots or below one.
      deps: other cc_proto targets that the file imports.
      grpc: whether to generate the services' stubs too. The messages alone, for rooms that know no gRPC, are then the
        library NAME_messages.
      visibility: as everywhere.
    """
    stem = src[:-len(".proto")]
    hdrs = [stem + ".pb.h"]
    srcs = [stem + ".pb.cc"]
    if grpc:
        hdrs.append(stem + ".grpc.pb.h")
        srcs.append(stem + ".grpc.pb.cc")
    native.filegroup(
        name = name + "_src",
        srcs = [src] + [dep + "_src" for dep in deps],
        visibility = visibility,
    )
    package = native.package_name()
    root = ""
    for candidate in _ROOTS:
        if package == candidate or package.startswith(candidate + "/"):
            root = candidate
    flags = "--plugin=protoc-gen-grpc=$$(command -v grpc_cpp_plugin) --grpc_out=$(GENDIR)/%s" % root if grpc else ""
    native.genrule(
        name = name + "_gen",
        srcs = [src] + [dep + "_src" for dep in deps],
        outs = hdrs + srcs,
        cmd = "protoc %s -I. --cpp_out=$(GENDIR)/%s %s $(location %s)" % (
            # googleapis imports nothing of ours, whose root is not there when it is built alone.
            " ".join(["-I" + r for r in _ROOTS if r == root or root != "third_party/googleapis"]),
            root,
            flags,
            src,
        ),
    )
    messages = name + "_messages" if grpc else name
    cc_library(
        name = messages,
        srcs = [stem + ".pb.cc"],
        hdrs = [stem + ".pb.h"],
        includes = ["."],
        copts = ["-w"],
        visibility = visibility,
        deps = deps + ["//third_party:protobuf"],
    )
    if grpc:
        cc_library(
            name = name,
            srcs = [stem + ".grpc.pb.cc"],
            hdrs = [stem + ".grpc.pb.h"],
            includes = ["."],
            copts = ["-w"],
            visibility = visibility,
            deps = [
                ":" + messages,
                "//third_party:grpc",
            ],
        )
