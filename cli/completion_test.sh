#!/usr/bin/env bash
# The completion scripts do in their shells what they are for. Bash is always there; others are tried where they are.
#
#   completion_test.sh BINARY
set -euo pipefail

work="${TEST_TMPDIR:?}"
mkdir -p "$work/bin"
cp "$1" "$work/bin/viommuctl"
export PATH="$work/bin:$PATH" HOME="$work" VIOMMUCTL_SERVER="unix:$work/nobody.sock"

fail() {
  echo "$*" >&2
  exit 1
}

# complete LINE WORD…: what Bash offers at the end of LINE.
# shellcheck disable=SC1090,SC2034
complete_bash() {
  local line="$1"
  shift
  bash -c '
    source <(viommuctl completion bash)
    complete -p viommuctl >/dev/null
    compopt() { :; }
    COMP_LINE="$1" COMP_POINT=${#1}
    _viommuctl
    printf "%s\n" "${COMPREPLY[@]}"' bash "$line" >"$work/offered"
  diff <(printf '%s\n' "$@") "$work/offered" || fail "bash offers other things for \"$line\""
}
complete_bash "viommuctl desc" describe
complete_bash "viommuctl set " vdev-id vdev-ids quota
complete_bash "viommuctl get hosts --output " table wide json yaml name
# Bash splits at "=" and ":": only what follows is replaced.
complete_bash "viommuctl attach --wait=ap" applied
touch "$work/file-a"
(cd "$work" && complete_bash "viommuctl get --tls-ca file" file-a)
echo "bash: done"

if command -v zsh >/dev/null; then
  viommuctl completion zsh >"$work/_viommuctl"
  zsh -n "$work/_viommuctl" || fail "zsh does not understand its script"
  echo "zsh: understood"
fi
if command -v fish >/dev/null; then
  offered="$(fish --no-config -c 'viommuctl completion fish | source; complete -C "viommuctl desc"' | cut -f 1)"
  [[ "$offered" == describe ]] || fail "fish offers: $offered"
  echo "fish: done"
fi
