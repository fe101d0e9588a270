#!/usr/bin/env bash
# A seed repeats its run in another process, too, where memory lies elsewhere and hash tables are in another order: what
# a failure prints is a command that replays it.
#
#   replay_test.sh SIMULATION
set -euo pipefail

for seed in 1 2 3 4 5; do
  first="$("$1" --seed "$seed" | grep '^trace ')"
  second="$("$1" --seed "$seed" | grep '^trace ')"
  if [[ "$first" != "$second" ]]; then
    printf 'seed %s is two runs:\n%s\n%s\n' "$seed" "$first" "$second" >&2
    exit 1
  fi
done
