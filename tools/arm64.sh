# shellcheck shell=bash
# The cross build for arm64: bazel build "${VIOMMU_ARM64_FLAGS[@]}" TARGET. To be sourced after tools/setup.sh and
# tools/debian.sh:
#
#   viommu_arm64     fetches arm64's libraries, unless they are there, and sets VIOMMU_ARM64_FLAGS
#
# The libraries are those of Debian's own arm64 packages, unpacked in a folder: nothing of them is installed.

# What is linked: the libraries of every build, and those of tests.
viommu_arm64_packages() {
  awk '$2 == "build" && $1 ~ /-dev$/ { print $1 } END { print "libgmock-dev"; print "libgtest-dev"; print "librapidcheck-dev" }' \
    "$VIOMMU_ROOT/tools/packages.txt"
}

# Named after the packages: another list is another folder.
viommu_arm64_folder() {
  local hash
  hash="$(viommu_arm64_packages | sort | sha256sum)"
  printf '%s\n' "$VIOMMU_CACHE/arm64/${hash:0:16}"
}

viommu_arm64() {
  local folder work packages
  folder="$(viommu_arm64_folder)"
  if [[ ! -e "$folder" ]]; then
    viommu_say "Fetching arm64 libraries into $folder"
    mkdir -p "$VIOMMU_CACHE/arm64"
    work="$(mktemp -d -p "$VIOMMU_CACHE/arm64" fetching.XXXXXX)"
    mapfile -t packages < <(viommu_arm64_packages)
    if ! { viommu_apt_update && viommu_fetch_arm64 "$work" "${packages[@]}"; }; then
      rm -rf "$work"
      viommu_die "the arm64 libraries cannot be fetched"
    fi
    chmod 755 "$work"
    # Somebody else may have been faster; his are as good.
    mv -T "$work" "$folder" 2>/dev/null || rm -rf "$work"
  fi
  VIOMMU_ARM64_FLAGS=("${VIOMMU_BAZEL_FLAGS[@]}" --config=arm64 "--repo_env=VIOMMU_ARM64_SYSROOT=$folder")
}
