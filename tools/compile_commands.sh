#!/usr/bin/env bash
# Writes compile_commands.json at the root, for clangd and other tools that want to know how each file is compiled.
#
#   tools/compile_commands.sh [target…]     //... by default
#
# Generated headers are built along: clangd must see them.
set -euo pipefail

# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
viommu_setup build test bench

targets=("$@")
((${#targets[@]} > 0)) || targets=(//...)
mapfile -t generators < <("${BAZEL[@]}" query --noshow_progress \
  "kind('genrule rule', deps(set(${targets[*]})) intersect //...)")
((${#generators[@]} == 0)) || "${BAZEL[@]}" build "${generators[@]}"
actions="$(mktemp)"
trap 'rm -f "$actions"' EXIT
"${BAZEL[@]}" aquery --noshow_progress --output=jsonproto "mnemonic('CppCompile', set(${targets[*]}))" >"$actions"
python3 tools/compile_commands.py "$("${BAZEL[@]}" info execution_root)" <"$actions" >compile_commands.json.new
mv compile_commands.json.new compile_commands.json
