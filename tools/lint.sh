#!/usr/bin/env bash
# Checks of the text of tracked files; nothing is changed. --fix formats C++ and BUILD files instead.
#
#   tools/lint.sh [--fix] [--results FILE]     FILE gets a line "pass NAME" or "fail NAME" per check
# The checks, and what they call, are called by name:
# shellcheck disable=SC2317
set -euo pipefail

fix=false
results=/dev/null
while (($# > 0)); do
  case "$1" in
    --fix) fix=true ;;
    --results)
      results="$2"
      shift
      ;;
    *)
      sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
      exit 2
      ;;
  esac
  shift
done

# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
viommu_setup test npm

# tracked PATTERN…: files that git knows and that are there, ended by NUL.
tracked() {
  git ls-files -z -- "$@" | while IFS= read -r -d '' file; do
    [[ -f "$file" ]] && printf '%s\0' "$file"
  done
}

scripts() {
  tracked | while IFS= read -r -d '' file; do
    if [[ "$file" == *.sh || "$(head -c 64 "$file" | head -n 1 | tr -d '\0')" =~ ^\#!.*[/\ ](ba|da)?sh ]]; then
      printf '%s\0' "$file"
    fi
  done
}

build_files() { tracked '*BUILD' '*BUILD.bazel' '*WORKSPACE' '*.bzl'; }
cpp_files() { tracked '*.h' '*.cc'; }

# Says which files, not which lines: nobody formats by hand.
check_clang_format() {
  local complaints
  complaints="$(cpp_files | xargs -0 -r clang-format --dry-run 2>&1)" || {
    printf '%s\n' "$complaints"
    return 1
  }
  [[ -z "$complaints" ]] && return
  sed -n 's/^\([^:]*\):.*-Wclang-format-violations.*/\1/p' <<<"$complaints" | sort -u
  echo "tools/lint.sh --fix formats them"
  return 1
}


# Bazel 4.2 has sh_test, cc_common and CcInfo built in.
check_buildifier() {
  build_files | xargs -0 -r buildifier -mode=check -lint=warn \
    -warnings=-module-docstring,-function-docstring,-native-sh-test,-native-cc-common,-native-cc-info
}

check_shellcheck() { scripts | xargs -0 -r shellcheck -x; }
check_buf_lint() { buf lint; }

# Against the last release before this commit, as soon as there is one.
readonly first_version=0.1.0
check_buf_breaking() {
  local release version
  version="$(<VERSION)"
  if release="$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null)"; then
    buf breaking --against ".git#tag=$release"
  elif [[ "$version" == "$first_version" ]]; then
    echo "no release yet to compare the API with"
  else
    echo "VERSION is $version, so there was a release, and its tag is not here: git fetch --tags"
    return 1
  fi
}

# Folders of somebody's machine, which mean nothing to others; one letter is an example. The brackets keep this line from
# finding itself.
check_machine_paths() {
  local found
  if found="$(git grep -nIE '(^|[^[:alnum:]_.$}~-])/(hom[e]|roo[t]|wor[k]|User[s])/[[:alnum:]]{2}' -- .)"; then
    printf '%s\n' "$found"
    return 1
  fi
}

# Text that breaks tools and reviews: carriage returns, spaces at the end of lines.
check_whitespace() {
  local found
  if found="$(git grep -nIE '[[:space:]]+$' -- . ':!third_party/googleapis' ':!LICENSE')"; then
    printf '%s\n' "$found"
    return 1
  fi
}

# Links of one Markdown file to another, or to a heading of it, that lead nowhere. The web is not asked.
check_links() { tracked '*.md' ':!third_party' | xargs -0 -r python3 tools/links.py; }

if "$fix"; then
  cpp_files | xargs -0 -r clang-format -i
  build_files | xargs -0 -r buildifier -mode=fix -lint=fix -warnings=-native-sh-test,-native-cc-common,-native-cc-info
fi

failed=0
for check in clang_format buildifier shellcheck buf_lint buf_breaking machine_paths whitespace links; do
  if output="$("check_$check" 2>&1)"; then
    printf 'ok    %s\n' "$check"
    echo "pass $check" >>"$results"
  else
    printf 'FAIL  %s\n%s\n' "$check" "$output"
    echo "fail $check" >>"$results"
    failed=1
  fi
done
exit "$failed"
