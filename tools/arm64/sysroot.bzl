"""Where arm64's libraries are: an absolute path that a build is told (tools/arm64.sh)."""

def _arm64_sysroot_impl(repository_ctx):
    # A build for this machine needs none.
    path = repository_ctx.os.environ.get("VIOMMU_ARM64_SYSROOT", "/nonexistent")
    repository_ctx.file("BUILD.bazel", "")
    repository_ctx.file("path.bzl", "SYSROOT = %s\n" % repr(path))

arm64_sysroot = repository_rule(
    implementation = _arm64_sysroot_impl,
    environ = ["VIOMMU_ARM64_SYSROOT"],
    local = True,
)
