#!/usr/bin/env bash
# Searches every state of the model, then of each broken variant, which must fail. Needs spin and a C compiler.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
variants=(READ_CHECK_WRITE NAME_ONLY CONFLICT_IS_LOST UNCHANGED_IS_UNWRITTEN EPOCH_RESET REAP_ANYTHING)

for tool in spin cc; do
  if ! command -v "$tool" >/dev/null 2>&1; then
    echo "model: $tool is missing; on Debian: apt-get install -y spin gcc"
    if [ -n "${CI:-}" ]; then exit 1; fi
    echo "model: skipped"
    exit 0
  fi
done

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"

# search NAME ORDER [SPIN OPTION]: leaves the verifier's report in NAME.out
search() {
  local name="$1" order="$2"
  shift 2
  spin "$@" -a "$here/lease.pml" || exit 1
  cc -O2 -w -DSAFETY "$order" -o "$name" pan.c
  "./$name" -m200000 >"$name.out" 2>&1 || true
  rm -f ./*.trail
}
states() { awk '/states, stored/ { print $1; exit }' "$1.out"; }

search sound -DCOLLAPSE
if ! grep -q "errors: 0" sound.out || grep -q -e "max search depth too small" -e "out of memory" sound.out; then
  cat sound.out
  echo "model: failed, the protocol itself breaks a promise, or the search was cut short"
  exit 1
fi
echo "sound: no error in $(states sound) states"

caught=0
for variant in "${variants[@]}"; do
  search "$variant" -DBFS "-D$variant"  # the shortest way to a violation first
  why="$(awk -F'assertion violated ' '/assertion violated/ { print $2; exit }' "$variant.out" | sed 's/ (at depth.*//')"
  if [ -n "$why" ]; then
    caught=$((caught + 1))
    echo "$variant: violated after $(states "$variant") states: $why"
  else
    echo "$variant: NOT CAUGHT"
  fi
done
if [ "$caught" != "${#variants[@]}" ]; then
  echo "model: failed variants_caught=$caught/${#variants[@]}"
  exit 1
fi
echo "model: ok states=$(states sound) variants_caught=$caught/${#variants[@]}"
