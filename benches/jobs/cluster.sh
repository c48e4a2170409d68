#!/usr/bin/env bash
# Throughput of two workers against one, each on a core of its own, through a queue of three servers on this machine;
# beside them one process on one core without a queue. The same input and the built-in model each time; prints seconds and rows a second.
#   benches/jobs/cluster.sh [CLIPS]       needs nats-server (`.ci/cluster` installs one below target/) and two quiet cores
set -euo pipefail
cd "$(dirname "$0")/../.."

rows=${1:-2000}
port=42220
nats=$(command -v nats-server || echo target/nats/bin/nats-server)
cargo build --release --locked
vljepa=${CARGO_TARGET_DIR:-target}/release/vljepa
room=$(mktemp -d)
started=()
trap 'kill "${started[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$room"' EXIT

"$vljepa" world --out "$room/clips" --clips "$rows" --size 96 >/dev/null
rm "$room"/clips/*.jsonl
asked=(--question "what is happening in the clip?" --rows-per-part 50)

routes=$(for at in 0 1 2; do printf 'nats://127.0.0.1:%d,' $((port + 10 + at)); done)
for at in 0 1 2; do
    "$nats" --name "n$at" --addr 127.0.0.1 --port $((port + at)) --jetstream --store_dir "$room/$at" \
        --cluster_name bench --cluster "nats://127.0.0.1:$((port + 10 + at))" --routes "${routes%,}" \
        >"$room/nats-$at.log" 2>&1 &
    started+=($!)
done

export VLJEPA_LOG=warn VLJEPA_THREADS=1 VLJEPA_DECODE_THREADS=1 VLJEPA_QUEUE_REPLICAS=3
export VLJEPA_QUEUE=nats://127.0.0.1:$port,nats://127.0.0.1:$((port + 1)),nats://127.0.0.1:$((port + 2))

# The time of one job from its submission to its last part, and how many rows that is a second.
timed() {
    local name=$1 began=$EPOCHREALTIME
    shift
    "$@" >"$room/$name.out"
    awk -v name="$name" -v rows="$rows" -v began="$began" -v ended="$EPOCHREALTIME" \
        'BEGIN { seconds = ended - began; printf "%-22s %8.2f s %10.0f rows/s\n", name, seconds, rows / seconds }'
}

VLJEPA_QUEUE='' timed "no queue, one core" taskset -c 0 "$vljepa" job run "$room/clips" --out "$room/alone" "${asked[@]}"

coproc server { exec "$vljepa" serve --addr 127.0.0.1:0 --jobs-root "$room"; }
started+=("$server_PID")
read -r -t 120 line <&"${server[0]}"
address=${line##* on }
for workers in 1 2; do
    taskset -c $((workers - 1)) "$vljepa" worker >"$room/worker-$workers.log" &
    started+=($!)
    until [ -s "$room/worker-$workers.log" ]; do sleep 0.1; done
    timed "$workers workers" "$vljepa" job submit clips --out "out-$workers" "${asked[@]}" --watch \
        --server "http://$address"
    diff -rq --exclude '_*' "$room/alone" "$room/out-$workers" && echo "  the same bytes as without a queue"
done
