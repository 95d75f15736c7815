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
stopping=
trap 'stopping=1; kill -TERM "$exec_pid" 2>/dev/null' TERM INT HUP

while [ "$left" -ne 0 ]; do
    # In the background, so that a signal is heard while it runs.
    broker exec --queue "${QUEUE:-default}" --wait "${WAIT:-30}" -- "$@" &
    exec_pid=$!
    wait "$exec_pid"
    status=$?
    if [ -n "$stopping" ]; then
        wait "$exec_pid" # it stops the command and gives the job back
        exit 143
    fi
    case $status in
    0) left=$((left - 1)) ;; # done
    1) left=$((left - 1)) ;; # the command failed; the broker decides on another try
    3) ;;                    # nothing available: ask again
    4) sleep 1 ;;            # timed out, or the outcome is unknown: if there is a lease, it expires
    5) left=$((left - 1)) ;; # the lease was lost: `broker job` says where the job stands
    *) exit 2 ;;             # a wrong command line would stay wrong
    esac
done
