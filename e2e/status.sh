#!/usr/bin/env bash
# How long `status` and `rounds` take on every node of a run, again and again while it trains.
#
#   e2e/status.sh DIR [PACELINE]      DIR: the folder of `paceline demo --keep DIR`, which is running
set -euo pipefail
dir=$1 paceline=${2:-target/release/paceline} worst=0 asked=0
for _ in $(seq 20); do
  for home in "$dir"/node-*; do
    for command in status rounds; do
      began=$(date +%s%N)
      "$paceline" "$command" --home "$home" --format json > /dev/null
      ms=$((($(date +%s%N) - began) / 1000000))
      asked=$((asked + 1))
      [ "$ms" -le "$worst" ] || worst=$ms
    done
  done
  sleep 0.5
done
echo "asked $asked times, the slowest answer took $worst ms"
