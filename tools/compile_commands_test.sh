#!/usr/bin/env bash
# compile_commands.py makes of Bazel's actions what clangd can read: one entry a source, headers left out.
set -euo pipefail

script="$1"
cat >"$TEST_TMPDIR/actions.json" <<'END'
{"actions": [
  {"arguments": ["gcc", "-Wall", "-c", "b/b.cc", "-o", "b.o"]},
  {"arguments": ["gcc", "-c", "a/a.cc", "-o", "a.o"]},
  {"arguments": ["gcc", "-DTWICE", "-c", "a/a.cc", "-o", "a.pic.o"]},
  {"arguments": ["gcc", "-c", "a/a.h", "-o", "a.h.processed"]}
]}
END
python3 "$script" /execution/root <"$TEST_TMPDIR/actions.json" >"$TEST_TMPDIR/compile_commands.json"
python3 - "$TEST_TMPDIR/compile_commands.json" <<'END'
import json
import sys

with open(sys.argv[1]) as file:
    entries = json.load(file)
assert [entry["file"] for entry in entries] == ["a/a.cc", "b/b.cc"], entries
assert all(entry["directory"] == "/execution/root" for entry in entries), entries
assert entries[0]["arguments"] == ["gcc", "-c", "a/a.cc", "-o", "a.o"], entries
END
