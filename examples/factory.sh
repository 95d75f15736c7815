#!/bin/sh
# A factory in shell: one `broker exec` after another, by its exit status.
#
#   BROKER_REDIS_URL=redis://localhost BROKER_FACTORY=build-7 examples/factory.sh [COMMAND…]
#
# COMMAND finds the job's payload on its standard input, and BROKER_JOB_ID and BROKER_LEASE_EPOCH in its environment.
# JOBS=n ends after n jobs; WAIT is how long each claim waits for work, in seconds; QUEUE is where it looks.
set -u

if [ $# -eq 0 ]; then
    set -- sh -c 'echo "job $BROKER_JOB_ID, epoch $BROKER_LEASE_EPOCH: $(wc -c) bytes of payload"'
fi
left=${JOBS:--1}
pause=1
stopping=
child=
own=$(mktemp -d) || exit 2
begun=$own/begun
trap 'rm -rf "$own"' EXIT
trap 'stopping=1; kill -TERM "$child" 2>/dev/null' TERM INT HUP

# Run it in the background, so that a signal is heard meanwhile.
heed() {
    [ -z "$stopping" ] || exit 143
    "$@" &
    child=$!
    wait "$child"
    status=$?
    if [ -n "$stopping" ]; then
        wait "$child" # it stops the command and gives the job back
        exit 143
    fi
    return "$status"
}

# Wait longer each time, and not as long as every other factory that met the same: up to a minute.
back_off() {
    seconds=$((pause + $(od -An -N2 -tu2 /dev/urandom) % (pause + 1)))
    echo "factory.sh: $1; asks again in $seconds s" >&2
    heed sleep "$seconds"
    [ "$pause" -ge 30 ] || pause=$((pause * 2))
}

while [ "$left" -ne 0 ]; do
    rm -f "$begun"
    heed broker exec --queue "${QUEUE:-default}" --wait "${WAIT:-30}" -- sh -c ': >"$1"; shift; exec "$@"' sh "$begun" "$@"
    status=$?
    if [ -e "$begun" ]; then # it had a job, which is done (0), failed (1), unknown (4: a lease expires) or lost (5)
        left=$((left - 1))
        pause=1
        continue
    fi
    case $status in
    0 | 3 | 5) heed sleep 1 ;; # nothing available, for which it mostly has waited; or a job that was over at once
    1) back_off "no broker answers, or it refuses" ;;
    4) back_off "no answer, or it asks for a pause" ;;
    *) exit 2 ;; # a wrong command line would stay wrong
    esac
done
