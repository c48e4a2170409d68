#!/usr/bin/env bash
# Throughput of two workers against one, each with one thread, through a queue of three servers on this machine; beside
# them one process without a queue. The same input and the built-in model each time; prints seconds and rows a second.
#   benches/jobs/cluster.sh [ROWS]        needs nats-server (`.ci/cluster` installs one below target/) and two quiet cores
set -euo pipefail
cd "$(dirname "$0")/../.."

rows=${1:-40000}
port=42220
nats=$(command -v nats-server || echo target/nats/bin/nats-server)
cargo build --release --locked
vljepa=${CARGO_TARGET_DIR:-target}/release/vljepa
room=$(mktemp -d)
started=()
trap 'kill "${started[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$room"' EXIT

for row in $(seq "$rows"); do
    printf '{"id": "%d", "text": "a %s square moves %s, then %d circles rest"}\n' "$row" \
        "$([ $((row % 3)) = 0 ] && echo red || echo blue)" "$([ $((row % 2)) = 0 ] && echo left || echo right)" "$row"
done >"$room/texts.jsonl"

routes=$(for at in 0 1 2; do printf 'nats://127.0.0.1:%d,' $((port + 10 + at)); done)
for at in 0 1 2; do
    "$nats" --name "n$at" --addr 127.0.0.1 --port $((port + at)) --jetstream --store_dir "$room/$at" \
        --cluster_name bench --cluster "nats://127.0.0.1:$((port + 10 + at))" --routes "${routes%,}" \
        >"$room/nats-$at.log" 2>&1 &
    started+=($!)
done

export VLJEPA_LOG=warn VLJEPA_THREADS=1 VLJEPA_QUEUE_REPLICAS=3
export VLJEPA_QUEUE=nats://127.0.0.1:$port,nats://127.0.0.1:$((port + 1)),nats://127.0.0.1:$((port + 2))

# The time of one job from its submission to its last part, and how many rows that is a second.
timed() {
    local name=$1 began=$EPOCHREALTIME
    shift
    "$@" >"$room/$name.out"
    awk -v name="$name" -v rows="$rows" -v began="$began" -v ended="$EPOCHREALTIME" \
        'BEGIN { seconds = ended - began; printf "%-22s %8.2f s %10.0f rows/s\n", name, seconds, rows / seconds }'
}

VLJEPA_QUEUE='' timed "no queue, one thread" "$vljepa" job run "$room/texts.jsonl" --out "$room/alone" --rows-per-part 500

coproc server { exec "$vljepa" serve --addr 127.0.0.1:0 --jobs-root "$room"; }
started+=("$server_PID")
read -r -t 120 line <&"${server[0]}"
address=${line##* on }
for workers in 1 2; do
    "$vljepa" worker >"$room/worker-$workers.log" &
    started+=($!)
    until [ -s "$room/worker-$workers.log" ]; do sleep 0.1; done
    timed "$workers workers" "$vljepa" job submit texts.jsonl --out "out-$workers" --rows-per-part 500 --watch \
        --server "http://$address"
    diff -rq --exclude '_*' "$room/alone" "$room/out-$workers" && echo "  the same bytes as without a queue"
done
