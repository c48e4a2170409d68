#!/bin/sh
# Makes the record of a server under load on this machine, for a quiet one; takes about five minutes, and ten more for
# the soak.
#   benches/load/make.sh NAME [OPTIONS OF vljepa serve]
# writes benches/record/DATE-NAME-load.md. The binary is target/release/vljepa, or $VLJEPA. Where it may (as root), the
# client has real-time priority: its own lateness would count as the server's.
set -eu
cd "$(dirname "$0")/../.."
name=$1
shift
vljepa=${VLJEPA:-target/release/vljepa}
record=benches/record/$(date -u +%F)-$name-load.md
before='' with=''
if chrt -r 2 true 2> /dev/null; then
    before='chrt -r 2' with='chrt -o 0'
fi

printf '# %s: %s under load\n\n' "$(date -u +%F)" "$name" > "$record"
$before "$vljepa" bench load --report --run-with "$with" -- "$@" >> "$record" 2>&1
printf '\n## Soak\n\n' >> "$record"
"$vljepa" bench load --soak "${SOAK:-10m}" -- "$@" >> "$record" 2>&1
echo "$record"
