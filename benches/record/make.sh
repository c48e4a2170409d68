#!/bin/sh
# Makes a record of this machine: ours alone, then ours and the peers in turn. For a quiet machine; takes an hour.
#   benches/record/make.sh NAME PYTHON [COMMAND BEFORE EACH, e.g. "taskset -c 1"]
# writes benches/record/DATE-NAME.md. The binary is target/release/vljepa, or $VLJEPA.
set -eu
cd "$(dirname "$0")/../.."
name=$1 python=$2 before=${3:-}
vljepa=${VLJEPA:-target/release/vljepa}
record=benches/record/$(date -u +%F)-$name.md

"$python" benches/peers/compare.py --python "$python" --binary "$vljepa" --threads 1 --run-with "$before" --record "$record"

run() { # a command and its output, as they are
    printf '\n```\n$ vljepa %s\n' "$*" >> "$record"
    $before "$vljepa" "$@" >> "$record" 2>&1
    printf '```\n' >> "$record"
}
printf '\n## Ours alone\n' >> "$record"
run bench kernel --threads 1
for frames in 8 16 64; do
    run bench --preset vl-jepa-1.6b --threads 1 --frames "$frames"
done
# two threads want both cores, so nothing stands before them
before=
run bench --preset vl-jepa-1.6b --threads 2 --frames 16
run bench kernel --threads 2 --only ternary,int8,attention --rows 1088,2112
echo "$record"
