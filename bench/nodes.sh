#!/usr/bin/env bash
# What a round costs beyond training as the roster grows, with a tiny net, so that agreement is all there is to see: for 5,
# 10, 20 and 40 nodes as processes on this machine the median over rounds and nodes of (commit to commit - the slowest
# participant's training).
#
#   bench/nodes.sh [PACELINE] [NODES...]
set -euo pipefail
paceline=${1:-target/release/paceline}
shift || true
counts=${*:-5 10 20 40}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for nodes in $counts; do
  cat > "$dir/run.toml" <<TOML
[run]
name = "nodes-$nodes"
rounds = 8
min_nodes = $nodes

[model]
layers = [ { type = "flatten" }, { type = "linear", out = 10 } ]

[data]
dataset = "shapes"
samples = $((nodes * 20))

[train]
batch = 10
TOML
  began=$(date +%s%N)
  "$paceline" demo --nodes "$nodes" --run "$dir/run.toml" --keep "$dir/homes-$nodes" > "$dir/out-$nodes" 2>&1 ||
    { cat "$dir/out-$nodes"; exit 1; }
  took_ms=$((($(date +%s%N) - began) / 1000000))
  for home in "$dir/homes-$nodes"/node-*; do
    "$paceline" rounds --home "$home" --format json > "$home/rounds.json"
  done
  python3 - "$dir/homes-$nodes" "$nodes" "$took_ms" <<'PY'
import glob, json, os, statistics, sys
homes = sorted(glob.glob(sys.argv[1] + "/node-*"))
rounds = [json.loads(line) for home in homes for line in open(home + "/rounds.json")]
overhead = sorted(r["overhead_ms"] for r in rounds if r["overhead_ms"] is not None)
late = sum(r["committed_attempt"] > 0 for r in rounds)
model = max(os.path.getsize(p) for p in glob.glob(homes[0] + "/blobs/*.blob"))
print(f"{sys.argv[2]:>3} nodes, model {model} bytes: overhead median {statistics.median(overhead):.0f} ms,"
      f" p90 {overhead[len(overhead) * 9 // 10]} ms; {late} of {len(rounds)} records after attempt 0;"
      f" the whole run {int(sys.argv[3]) / 1000:.1f} s")
PY
done
