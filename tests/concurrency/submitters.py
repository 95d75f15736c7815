"""A herd that fights for one unique key: `submitters.py OPENER PATH PROCESSES POLICY KEY…`, a round for each key.

It prints the words each process was answered, one JSON list a line.
"""

import json
import os
import random
import sys
from collections.abc import Callable
from functools import partial

from broker import coordinator, submission
from broker.answers import Answer, Word
from broker.coordinator import Context, Settlement
from broker.messages import Submit, SubmitBody, Unique
from datastore import NotApplied, OutcomeUnknown
from tests.concurrency.race import NOW, context
from tests.contract.racing import open_store

TRIES_MAX = 50


def herd(opener: str, path: str, key: str, *, processes: int, policy: str) -> list[str]:
    """Every process acts on the key at the same moment; the first answer of each."""
    hold, go = os.pipe()
    answers, told = os.pipe()
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            os.close(go)
            store = open_store(opener, path)
            os.read(hold, 1)  # ends once the parent lets go: everybody starts together
            word = fight(context(store), key, number, policy)
            store.close()
            os.write(told, word.encode() + b"\n")
            os._exit(0)
        children.append(child)
    os.close(go)
    os.close(told)
    with os.fdopen(answers) as lines:
        words = [line.strip() for line in lines]
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    os.close(hold)
    return words


def fight(own: Context, key: str, number: int, policy: str) -> str:
    """Submit one job with the key; in `churn`, cancel and redrive it, and submit others, as chance will have it."""
    chance = random.Random(f"{key} {number}")
    if policy != "churn":
        return submit(own, f"{key}-{number}", key, policy)
    for step in range(6):
        job_id = f"{key}-{number}-{step}"
        submit(own, job_id, key, chance.choice(["reject", "replace"]))
        coordinator.cancel(own, job_id, request_id=f"x-{job_id}", by="f", now_ms=NOW)
        if chance.random() < 0.7:
            until_applied(partial(coordinator.redrive, own, job_id, request_id=f"r-{job_id}", by="f", now_ms=NOW))
    return "done"


def until_applied(act: Callable[[], Settlement]) -> Answer:
    """As a client does: where a store fails, or a race was lost too often, send the same request again."""
    for _ in range(TRIES_MAX):
        try:
            answer = act().answer
        except (NotApplied, OutcomeUnknown):
            continue
        if answer.word is not Word.OUTCOME_UNKNOWN:
            return answer
    raise AssertionError(f"{TRIES_MAX} tries in a row not applied")


def submit(own: Context, job_id: str, key: str, policy: str) -> str:
    """The answer to one submission."""
    unique = Unique.model_validate({"key": key, "policy": policy})
    body = SubmitBody(job_id=job_id, unique=unique)
    request = Submit(request_id=f"s-{job_id}", factory_id="s", incarnation="i", instance="x", body=body)
    answer = until_applied(partial(submission.submit, own, request, now_ms=NOW))
    return "joined" if answer.body.get("joined") else str(answer.reason or answer.word)


if __name__ == "__main__":
    count = int(sys.argv[3])
    for each in sys.argv[5:]:
        print(json.dumps(herd(sys.argv[1], sys.argv[2], each, processes=count, policy=sys.argv[4])), flush=True)  # noqa: T201  # its output is its result
