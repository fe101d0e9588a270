# shellcheck shell=bash
# Packages of other suites and of arm64, without a change to the system's own sources or architectures. To be sourced
# after tools/setup.sh:
#
#   viommu_apt_update                            private lists in the cache, not older than a day
#   viommu_apt get -t bookworm-backports ...     apt-get with them; "cache" is apt-cache
#   viommu_install_from bookworm-backports ...   installs packages, after asking where somebody can answer
#   viommu_fetch FOLDER sid linux-source-7.2     unpacks packages in a folder, without those that they depend on
#   viommu_fetch_arm64 FOLDER libgrpc++-dev      unpacks arm64 packages and all that they depend on

viommu_apt_dir="$VIOMMU_CACHE/debian"
viommu_apt_as=(env)
viommu_apt_keys=/usr/share/keyrings/debian-archive-keyring.gpg

# Prints "URI SUITE COMPONENT" of every index that the system's apt reads from Debian 12. This is the only place where the
# mirror comes from: whoever uses another one has told apt.
viommu_mirrors() {
  # apt's own variables.
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk '$3 == "main" && $2 ~ /^bookworm(-updates|-security)?$/ && !seen[$0]++'
}

# viommu_apt get|cache ARGUMENT…
viommu_apt() {
  local tool="apt-$1"
  shift
  "${viommu_apt_as[@]}" DEBIAN_FRONTEND=noninteractive "$tool" -q \
    -o Dir::Etc::SourceList="$viommu_apt_dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::Preferences="$viommu_apt_dir/preferences" -o Dir::Etc::PreferencesParts=/dev/null \
    -o Dir::State::Lists="$viommu_apt_dir/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=2 "$@"
}

viommu_apt_update() {
  local mirrors main
  mirrors="$(viommu_mirrors)"
  main="$(awk '$2 == "bookworm" { print $1; exit }' <<<"$mirrors")"
  [[ -n "$main" ]] || viommu_die "apt knows no mirror of Debian 12 (bookworm); see apt-get indextargets"
  mkdir -p "$viommu_apt_dir/lists/partial"
  {
    awk -v keys="$viommu_apt_keys" '{ print "deb [arch=amd64,arm64 signed-by=" keys "] " $1, $2, $3 }' <<<"$mirrors"
    # QEMU 7.2 of bookworm has no nested SMMUv3; the kernel that has what we test is in sid alone.
    echo "deb [arch=amd64 signed-by=$viommu_apt_keys] $main bookworm-backports main"
    echo "deb [arch=amd64 signed-by=$viommu_apt_keys] $main sid main"
  } >"$viommu_apt_dir/sources.list.new"
  # What is not asked for by suite comes from bookworm.
  printf '%s\n' 'Package: *' 'Pin: release n=sid' 'Pin-Priority: 1' >"$viommu_apt_dir/preferences"
  # A day old is young enough, unless the sources are others.
  if cmp -s "$viommu_apt_dir/sources.list.new" "$viommu_apt_dir/sources.list" &&
    [[ -n "$(find "$viommu_apt_dir/updated" -mmin -1440 2>/dev/null)" ]]; then
    return
  fi
  mv "$viommu_apt_dir/sources.list.new" "$viommu_apt_dir/sources.list"
  viommu_apt get update >&2
  touch "$viommu_apt_dir/updated"
}

# viommu_install_from SUITE PACKAGE…
viommu_install_from() {
  local suite="$1"
  shift
  viommu_ask_to_install "${@/%/ ($suite)}"
  viommu_apt_update
  local viommu_apt_as=("${VIOMMU_AS_ROOT[@]}")
  viommu_apt get install -y --no-install-recommends -t "$suite" "$@" >&2
}

# viommu_unpack FOLDER FILE.deb…
viommu_unpack() {
  local folder="$1" deb
  shift
  mkdir -p "$folder"
  for deb in "$@"; do dpkg-deb -x "$deb" "$folder"; done
}

# viommu_fetch FOLDER SUITE PACKAGE…
viommu_fetch() {
  local folder="$1" suite="$2" debs status=0
  shift 2
  debs="$(mktemp -d -p "$viommu_apt_dir")"
  (cd "$debs" && viommu_apt get download "${@/%//$suite}" >&2) && viommu_unpack "$folder" "$debs"/*.deb || status=$?
  rm -rf "$debs"
  return "$status"
}

# viommu_fetch_arm64 FOLDER PACKAGE…
# apt is told that this is an arm64 system on which nothing is installed yet.
viommu_fetch_arm64() {
  local folder="$1" debs status=0
  shift
  debs="$(mktemp -d -p "$viommu_apt_dir")"
  mkdir -p "$debs/partial"
  : >"$debs/status"
  viommu_apt get -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State::status="$debs/status" \
    -o Dir::Cache::archives="$debs" -o Debug::NoLocking=1 \
    install -y --download-only --no-install-recommends "$@" >&2 && viommu_unpack "$folder" "$debs"/*.deb || status=$?
  rm -rf "$debs"
  return "$status"
}
