#!/usr/bin/env bash
# What a round costs beyond training: the median over rounds of (commit to commit - the slowest participant's training),
# the bytes that each node received beside what it must, and what one fsync costs on the disk of the homes.
#
#   bench/overhead.sh DIR [PACELINE]      DIR: the folder of a finished `paceline demo --keep DIR`
set -euo pipefail
dir=$1 paceline=${2:-target/release/paceline}
for home in "$dir"/node-*; do
  "$paceline" rounds --home "$home" --format json > "$home/rounds.json"
  "$paceline" status --home "$home" --format json > "$home/me.json"
done
python3 - "$dir" <<'PY'
import glob, json, os, statistics, sys, time
homes = sorted(glob.glob(sys.argv[1] + "/node-*"))
# The largest blob is a model or an update: they have the same length.
model = max(os.path.getsize(p) for p in glob.glob(homes[0] + "/blobs/*.blob"))
for home in homes:
    rounds = [json.loads(line) for line in open(home + "/rounds.json")]
    calm = [r for r in rounds if r["committed_attempt"] == 0 and r["overhead_ms"] is not None]
    overhead = [r["overhead_ms"] for r in calm]
    print(f"{os.path.basename(home)}: {len(calm)} rounds in attempt 0, overhead median {statistics.median(overhead):.0f} ms,"
          f" from {min(overhead)} to {max(overhead)} ms")
    # A coordinator must receive the others' updates, everybody else the model.
    me = json.load(open(home + "/me.json"))["node_id"]
    due = lambda r: model * (len(r["contributions"]) - 1 if r["committed_by"] == me else 1)
    ratios = [r["bytes_received"] / due(r) for r in calm[1:]]
    print(f"  received, as a multiple of what it must: median {statistics.median(ratios):.3f}, at most {max(ratios):.3f};"
          f" sent {sum(r['bytes_sent'] for r in calm) / model / len(calm):.2f} models a round")
path, times = os.path.join(sys.argv[1], "fsync"), []
with open(path, "wb") as f:
    for _ in range(50):
        f.write(b"x" * 4096)
        began = time.perf_counter()
        f.flush(); os.fsync(f.fileno())
        times.append((time.perf_counter() - began) * 1000)
os.remove(path)
print(f"one fsync of 4 KiB: median {statistics.median(times):.2f} ms, slowest {max(times):.2f} ms")
PY
