"""A broker of one memory store, asked directly."""

from typing import Any

from broker.answers import Word
from broker.controls import Controls
from broker.coordinator import Context, Settlement
from broker.documents import Job, Run
from broker.entropy import SeededEntropy
from broker.fence import Fence
from broker.messages import REQUESTS
from broker.repository import read_job
from broker.runs import read_run
from broker.settle import settle
from broker.transitions import Rules
from datastore import Datastore
from datastore.memory import MemoryDatastore

NOW = 1_700_000_000_000
TTL = Rules().ttl_ms


class Desk:
    """A broker of one store, asked by several factories."""

    def __init__(self) -> None:
        self.store = MemoryDatastore()
        self.context = Context(self.store, Rules(), SeededEntropy(7), lambda _ms: None)
        self._requests = 0

    def ask(
        self,
        op: str,
        *,
        by: str = "f",
        start: str = "start-1",
        now_ms: int = NOW,
        store: Datastore | None = None,
        **body: Any,
    ) -> Settlement:
        """One request, settled. `store`: what is to stand between the broker and the desk's own."""
        self._requests += 1
        address = {"factory_id": by, "incarnation": start, "instance": "x"}
        request = {"op": op, "request_id": f"r{self._requests}", **address, "body": body}
        context = self.context if store is None else self.on(store)
        return settle(context, REQUESTS.validate_python(request), now_ms=now_ms)

    def submit(self, job_id: str = "job", **body: Any) -> None:
        assert self.ask("submit", job_id=job_id, **body).answer.good

    def claim(self, job_id: str = "job", *, by: str = "f", now_ms: int = NOW) -> Fence:
        """The fence of the grant."""
        granted = self.ask("claim", job_id=job_id, by=by, now_ms=now_ms).answer
        assert granted.word is Word.GRANTED, granted
        return Fence(by, granted.body["epoch"], granted.body["token"], f"fenced-{self._requests}")

    def job(self, job_id: str = "job") -> Job:
        found = read_job(self.store, job_id)
        assert found is not None
        return found

    def run(self, epoch: int = 1, job_id: str = "job") -> Run:
        found = read_run(self.store, job_id, epoch)
        assert found is not None
        return found

    def with_controls(self) -> Context:
        """The context of a batch, which reads controls once."""
        return Context(self.store, Rules(), SeededEntropy(9), lambda _ms: None, controls=Controls(self.store))

    def on(self, store: Any) -> Context:
        return Context(store, Rules(), SeededEntropy(11), lambda _ms: None)
