#!/usr/bin/env bash
# Writes compile_commands.json at the root, for clangd and other tools that want to know how each file is compiled.
#
#   tools/compile_commands.sh [target…]     //... by default
#
# Generated headers must exist for clangd to see them: build once before.
set -euo pipefail

# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
viommu_setup build test bench

targets=("$@")
((${#targets[@]} > 0)) || targets=(//...)
actions="$(mktemp)"
trap 'rm -f "$actions"' EXIT
"${BAZEL[@]}" aquery --noshow_progress --output=jsonproto "mnemonic('CppCompile', set(${targets[*]}))" >"$actions"
python3 tools/compile_commands.py "$("${BAZEL[@]}" info execution_root)" <"$actions" >compile_commands.json.new
mv compile_commands.json.new compile_commands.json
