# shellcheck shell=bash
# Installs what a script needs and sets its environment. To be sourced by the scripts at the root:
#
#   source "$(dirname "${BASH_SOURCE[0]}")/tools/setup.sh"
#   viommu_setup build test     # groups of tools/packages.txt; "npm" is buf and buildifier
#
# Afterwards the working directory is the root of the repository, ${BAZEL[@]} runs Bazel, and with "npm" buf and buildifier
# are on the PATH.

VIOMMU_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VIOMMU_CACHE="${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/viommu"

viommu_say() { printf '\n== %s\n' "$*" >&2; }

viommu_die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Whether a person is there to be asked.
viommu_interactive() { [[ -t 0 && -t 2 && -z "${CI:-}" ]]; }

# Names of the packages of the groups "$@" that are not installed, one per line.
viommu_missing_packages() {
  local package group rest
  while read -r package group rest; do
    [[ -z "$package" || "$package" == \#* ]] && continue
    [[ " $* " == *" $group "* ]] || continue
    [[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" == installed ]] || printf '%s\n' "$package"
  done <"$VIOMMU_ROOT/tools/packages.txt"
}

# Asks whether the packages "$@" may be installed, where somebody can answer. Afterwards "${VIOMMU_AS_ROOT[@]}" in front of
# a command runs it as root.
viommu_ask_to_install() {
  command -v apt-get >/dev/null || viommu_die "this is not Debian; please install: $*"
  VIOMMU_AS_ROOT=(env)
  if [[ "$(id -u)" != 0 ]]; then
    command -v sudo >/dev/null || viommu_die "installing needs root; run as root: apt-get install --no-install-recommends $*"
    VIOMMU_AS_ROOT=(sudo env)
  fi
  viommu_say "Missing packages: $*"
  if viommu_interactive; then
    local answer
    read -r -p "Install them with apt-get? [Y/n] " answer
    [[ "$answer" == [nN]* ]] && viommu_die "nothing installed; install them yourself and try again"
  fi
  return 0
}

# Installs the packages "$@".
viommu_install() {
  viommu_ask_to_install "$@"
  local apt=("${VIOMMU_AS_ROOT[@]}" DEBIAN_FRONTEND=noninteractive apt-get -q)
  "${apt[@]}" update
  "${apt[@]}" install -y --no-install-recommends "$@"
}

# buf and buildifier, which Debian does not have: the exact versions of tools/package.json, outside of the repository.
# There is no lock file: one that is made on one platform misses the binaries of others.
viommu_npm_tools() {
  local pins dir
  pins="$(sha256sum "$VIOMMU_ROOT/tools/package.json")"
  dir="$VIOMMU_CACHE/npm-${pins:0:16}"
  if [[ ! -e "$dir/complete" ]]; then
    viommu_say "Installing buf and buildifier with npm in $dir"
    mkdir -p "$dir" && cp "$VIOMMU_ROOT/tools/package.json" "$dir/" || return 1
    # Node trusts its own list of authorities; the machine's may have more. Binaries are packages: no script has to run.
    NODE_EXTRA_CA_CERTS="${NODE_EXTRA_CA_CERTS:-/etc/ssl/certs/ca-certificates.crt}" \
      npm install --prefix "$dir" --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error >&2 || return 1
    touch "$dir/complete"
  fi
  PATH="$dir/node_modules/.bin:$PATH"
}

viommu_setup() {
  cd "$VIOMMU_ROOT" || viommu_die "cannot enter $VIOMMU_ROOT"
  # A bare system has only this locale; tools then agree on how to sort and to print.
  export LC_ALL=C.UTF-8
  PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
  # Everything is asked for and installed before any work begins.
  local missing=()
  mapfile -t missing < <(viommu_missing_packages "$@")
  local npm=false
  [[ " $* " == *" npm "* ]] && npm=true
  if "$npm" && ! command -v npm >/dev/null; then missing+=(npm); fi
  ((${#missing[@]} == 0)) || viommu_install "${missing[@]}"
  # Without them the rest still works; their own checks fail and say so.
  if "$npm" && ! viommu_npm_tools; then viommu_say "npm could not install buf and buildifier"; fi
  export PATH
  # shellcheck disable=SC2034  # for the script that sources this
  BAZEL=(bazel)
  # Results of earlier builds, also of other clones. A user.bazelrc that names a cache of its own wins.
  VIOMMU_BAZEL_FLAGS=()
  grep -qs disk_cache user.bazelrc || VIOMMU_BAZEL_FLAGS+=("--disk_cache=$VIOMMU_CACHE/bazel")
}
