#!/usr/bin/env bash
# systemd understands the units, and they stay closed.
#
#   units_test.sh UNIT…
set -euo pipefail

# Of systemd-analyze security: 0 is perfectly closed, 10 is open. In tenths.
most_exposure=25

# What a backend on the kernel's own interfaces cannot do without.
needed=(
  'viommu-agent.service LimitMEMLOCK=infinity'
  'viommu-agent.service DevicePolicy=closed'
  'viommu-agent.service DeviceAllow=/dev/iommu rw'
  'viommu-agent.service DeviceAllow=char-vfio* rw'
  'viommu-agent.service KillMode=process'
  'viommu-server.service DynamicUser=yes'
)

for unit in "$@"; do
  for need in "${needed[@]}"; do
    [[ "${need%% *}" == "$(basename "$unit")" ]] || continue
    grep -qxF -- "${need#* }" "$unit" || {
      echo "$unit lacks ${need#* }"
      exit 1
    }
  done
  copy="${TEST_TMPDIR:?}/$(basename "$unit")"
  # The programs are not installed where the tests run.
  sed 's,^ExecStart=/usr/bin/viommu-[a-z]*,ExecStart=/bin/true,' "$unit" >"$copy"
  complaints="$(systemd-analyze verify --man=no "$copy" 2>&1)" || {
    printf '%s\n' "$complaints"
    exit 1
  }
  if [[ "$complaints" == *"$(basename "$unit")"* ]]; then
    printf '%s\n' "$complaints"
    exit 1
  fi
  systemd-analyze security --no-pager --offline=true --threshold="$most_exposure" "$copy" | tail -n 1
done
