"""An index whose jobs stay in it, every second time, though a claim was proposed them: workers fight for them."""

import random
from collections.abc import Sequence
from typing import Any

from redis import Redis

from broker import index, proposals
from broker.index import Place
from broker.proposals import Asking, Candidate, Proposal

AGAIN = 0.5


class ProposesTwice:
    """Stands in for `propose`, and puts jobs that it has taken out of the index back."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._terms = index.encode_job_terms((), ())

    def __call__(self, connection: Redis, asking: Sequence[Asking], **how: Any) -> list[Proposal]:
        found = proposals.propose(connection, asking, **how)
        with connection.pipeline(transaction=False) as pipe:
            for ask, proposal in zip(asking, found, strict=True):
                for job_id in proposal.job_ids if isinstance(proposal, Candidate) else ():
                    if self._random.random() < AGAIN:
                        index.offer(pipe, Place(job_id, ask.claim.body.queue, self._terms, 0, ""))
            pipe.execute()
        return found
