"""Asks for the next job, one claim at a time, in a thread of its own: the agent's main thread must hear signals."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from broker.answers import Retry
from broker.client import BrokerTimeout, BrokerUnavailable, Client, ClientError, Reply
from broker.client.logger import Logger
from broker.failures import trace

log = Logger(__name__)

WAIT_MS_MAX = 30_000
"""How long one claim waits at the broker. A longer wait is another claim."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What an agent asks for."""

    queue: str = "default"
    offers: Sequence[str] = ()
    ttl_ms: int | None = None


class Claiming:
    """At most one claim on its way; `answered` gets its answer, or the failure."""

    def __init__(self, client: Client, terms: Terms, answered: Callable[[Reply | ClientError], None]) -> None:
        self._client = client
        self._terms = terms
        self._answered = answered
        self._repeat: str | None = None
        self._thread: threading.Thread | None = None

    def begin(self, wait_ms: int) -> None:
        """Ask for a job. One whose outcome is unknown is asked again under its id."""
        # A daemon: where the broker is away, a claim must not keep a stopped agent from ending.
        self._thread = threading.Thread(target=self._claim, args=(wait_ms,), name="broker-claim", daemon=True)
        self._thread.start()

    def _claim(self, wait_ms: int) -> None:
        terms, repeated = self._terms, self._repeat
        answer: Reply | ClientError
        try:
            answer = self._client.claim(
                queue=terms.queue,
                offers=terms.offers,
                ttl_ms=terms.ttl_ms,
                wait_ms=min(wait_ms, WAIT_MS_MAX),
                request_id=repeated,
            )
            self._repeat = answer.request_id if answer.retry is Retry.SAME_ID else None
        except BrokerTimeout as error:
            self._repeat = error.request_id
            answer = error
        except ClientError as error:
            answer = error
        except Exception as error:  # a mistake of ours must be told, too: an agent without an answer asks no more
            log.error("claim_broke", exception=trace())
            answer = BrokerUnavailable(f"{type(error).__name__}: {error}")
        self._answered(answer)
