#!/usr/bin/env bash
# Two hosts on one network, made of network namespaces and a veth pair: `paceline join run.toml` on each, no address given.
# They must meet over mDNS and finish a run with the same model. Needs root and `ip` (iproute2).
#
#   sudo e2e/lan.sh [PACELINE]      PACELINE: the binary, by default target/release/paceline
set -euo pipefail
cd "$(dirname "$0")/.."
paceline=$(realpath "${1:-target/release/paceline}")
dir=$(mktemp -d)
# Names of their own, so that two of these scripts do not meet.
a=pace-a-$$ b=pace-b-$$
cleanup() {
  kill $(jobs -p) 2>/dev/null || true
  ip netns del "$a" 2>/dev/null || true
  ip netns del "$b" 2>/dev/null || true
  rm -rf "$dir"
}
trap cleanup EXIT

ip netns add "$a"
ip netns add "$b"
ip link add veth0 netns "$a" type veth peer name veth0 netns "$b"
for host in "$a:10.77.0.1" "$b:10.77.0.2"; do
  ip -n "${host%%:*}" addr add "${host##*:}/24" dev veth0
  ip -n "${host%%:*}" link set veth0 up
  ip -n "${host%%:*}" link set lo up
  # Multicast, which mDNS uses, needs a way out.
  ip -n "${host%%:*}" route add default dev veth0
done

cat > "$dir/run.toml" <<'TOML'
[run]
name = "lan"
rounds = 3
min_nodes = 2

[model]
arch = "shapes-cnn"

[data]
dataset = "shapes"
samples = 1000
TOML

began=$SECONDS
pids=()
for host in "$a" "$b"; do
  ip netns exec "$host" "$paceline" join "$dir/run.toml" --home "$dir/$host" --exit-when-done 2> "$dir/$host.log" &
  pids+=($!)
done
for pid in "${pids[@]}"; do
  wait "$pid" || { cat "$dir"/*.log; exit 1; }
done
model() { "$paceline" rounds --home "$dir/$1" --format json | tail -n 1 | grep -o '"model_hash":"[0-9a-f]*"'; }
[ "$(model "$a")" = "$(model "$b")" ] || { echo "the two do not agree"; exit 1; }
"$paceline" rounds --home "$dir/$a"
echo "Two hosts met over mDNS and finished after $((SECONDS - began)) s: $(model "$a")"
