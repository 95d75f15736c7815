#!/bin/sh
# A host of a fleet: an agent that stays, runs two jobs at once, and drains when it is told to stop.
#
#   BROKER_REDIS_URL=redis://localhost BROKER_FACTORY=build-7 examples/host.sh [COMMAND…]
#
# COMMAND finds the job's payload on its standard input, and BROKER_JOB_ID and BROKER_LEASE_EPOCH in its environment.
# What runs has 20 s to finish after the first signal; then it is stopped and its jobs are given back.
# OFFERS is what this host has, QUEUE where it looks, IDLE ends it after so many seconds without work.
set -u

if [ $# -eq 0 ]; then
    set -- sh -c 'echo "job $BROKER_JOB_ID, epoch $BROKER_LEASE_EPOCH: $(wc -c) bytes of payload"'
fi
exec broker agent --concurrency 2 --stop-after 20 --queue "${QUEUE:-default}" \
    ${OFFERS:+--offers "$OFFERS"} ${IDLE:+--idle-exit "$IDLE"} -- "$@"
