#!/bin/bash
# Gives a gateway the token store that lies in a Secret, and every later one: the store of tokens is a file, gateways of
# several nodes have no other way to share one. It is issued into elsewhere (docs/deployment.md), never here.
#
#   tokens.sh once|follow FROM TO
set -euo pipefail
mode=$1 from=$2 to=$3
given="$to.given"

take() {
    # The gateway writes into its copy; only what was given is compared.
    if cmp -s "$from" "$given" 2>/dev/null && [ -e "$to" ]; then return 0; fi
    # One after another, or not at all. The log of the old store goes first, or it would be taken for the new one's.
    install -m 0600 "$from" "$to.next" &&
        install -m 0600 "$from" "$given.next" &&
        rm -f "$to-wal" "$to-shm" &&
        mv -f "$to.next" "$to" &&
        mv -f "$given.next" "$given" &&
        echo "tokens: another store is in place"
}

take
trap 'exit 0' TERM INT
while [ "$mode" = follow ]; do
    sleep 5 & wait $! || true
    take || echo "tokens: $from cannot be taken, what was there stays" >&2
done
