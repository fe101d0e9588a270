#!/usr/bin/env bash
# A quick run of a benchmark has a row for everything that it measures, against what it is compared with; what threads take is
# compared with nothing.
#
#   control_bench_test.sh BINARY
set -euo pipefail

# Short: a socket's path holds 107 bytes.
dir="$(mktemp -d /tmp/viommu-XXXXXX)"
trap 'rm -rf "$dir"' EXIT
TMPDIR="$dir" "$1" --quick --json "$dir/rows.json"
python3 - "$dir/rows.json" <<'PY'
import json, sys

rows = json.load(open(sys.argv[1]))
for row in rows:
    if row["rival"] is None:
        assert row["metric"].startswith("processor: ") and row["value"] >= 0, row
    else:
        assert row["value"] > 0 and row["rival_value"] > 0 and row["ratio"] > 0, row
found = {row["case"] for row in rows}
wanted = {f"SetVdevId, {callers}" for callers in ("1 caller", "16 callers", "64 callers", "256 callers")}
wanted |= {f"GetVdevice, {callers} callers" for callers in (16, 64)} | {"BatchSetVdevIds of 32, 64 callers"}
assert found == wanted, found ^ wanted
PY
