"""The operations on factories, for both clients."""

from collections.abc import Sequence

from broker.client.operations import Operations, T_co
from broker.client.wording import listed
from broker.messages import (
    DrainFactory,
    GetFactory,
    ListFactories,
    RegisterFactory,
    RemoveFactory,
    ResumeFactory,
)


class FactoryOperations(Operations[T_co]):
    """What is asked about factories. Common arguments and failures: see `Operations`."""

    def register(
        self,
        *,
        capacity: int | None = None,
        version: str | None = None,
        offers: Sequence[str] = (),
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """Register this client's start of its factory: `ok`, and the leases of earlier starts have ended.

        `conflict (restarted)`: a later start has replaced this one. Claims that name no offers make these.
        """
        body = {"capacity": capacity, "version": version, "offers": listed("offers", offers)}
        body["asked_ms"] = self._broker_ms()
        return self._ask(RegisterFactory, body, request_id=request_id, timeout_ms=timeout_ms)

    def drain(
        self,
        factory: str,
        *,
        reason: str | None = None,
        until_ms: int | None = None,
        for_ms: int | None = None,
        incarnation: str | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """Give a factory no new work: its claims get `draining`, its renewals the directive `drain`.

        Ends at `until_ms` (broker time) or after `for_ms`, else with `resume`. `incarnation`: only that start drains.
        """
        body = {"factory": factory, "reason": reason, "until_ms": until_ms, "for_ms": for_ms}
        return self._ask(
            DrainFactory, body | {"incarnation": incarnation}, request_id=request_id, timeout_ms=timeout_ms
        )

    def resume(self, factory: str, *, request_id: str | None = None, timeout_ms: int | None = None) -> T_co:
        """End a drain."""
        return self._ask(ResumeFactory, {"factory": factory}, request_id=request_id, timeout_ms=timeout_ms)

    def remove(
        self, factory: str, *, force: bool = False, request_id: str | None = None, timeout_ms: int | None = None
    ) -> T_co:
        """Forget a factory; with `force` also one that holds leases, which end. Its starts get no work any more."""
        body = {"factory": factory, "force": force}
        return self._ask(RemoveFactory, body, request_id=request_id, timeout_ms=timeout_ms)

    def factory(self, factory: str, *, request_id: str | None = None, timeout_ms: int | None = None) -> T_co:
        """One factory: what it registered, its drain, when it was last heard of, its leases."""
        return self._ask(GetFactory, {"factory": factory}, request_id=request_id, timeout_ms=timeout_ms)

    def factories(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """One page of factories, `{factories, cursor}`; the cursor is null on the last page."""
        body = {"limit": limit, "cursor": cursor}
        return self._ask(ListFactories, body, request_id=request_id, timeout_ms=timeout_ms)
