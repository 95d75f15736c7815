"""An agent whose client fails it goes on, or says so: it never just stops asking, nor drops what runs."""

import errno
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from broker.agent import Agent, End, Limits, Registering, Terms
from broker.agent.claiming import Claiming
from broker.answers import Answer, Reason, Word
from broker.client import BrokerTimeout, BrokerUnavailable, ClientError, Reply
from broker.exec import Command
from tests.unit.test_call import grant, reply

SOON_S = 30


class Breaking:
    """A client whose claims fail by a mistake of ours."""

    def claim(self, **_: Any) -> Reply:
        raise RuntimeError("scripted")


def test_a_claim_that_breaks_is_answered_too() -> None:
    answers: queue.SimpleQueue[Reply | ClientError] = queue.SimpleQueue()
    Claiming(Breaking(), Terms(), answers.put).begin(0)  # type: ignore[arg-type]  # what it needs of a client
    answer = answers.get(timeout=SOON_S)
    assert isinstance(answer, BrokerUnavailable)
    assert "scripted" in str(answer)


class Late:
    """A client that is told to stop as it claims, and is granted a job that it then can't give back."""

    factory_id, incarnation = "f", "i"

    def __init__(self) -> None:
        self.drained = threading.Event()
        self.released = False

    def claim(self, **_: Any) -> Reply:
        os.kill(os.getpid(), signal.SIGTERM)
        assert self.drained.wait(SOON_S)
        return grant()

    def drain(self, *_: Any, **__: Any) -> Reply:
        self.drained.set()
        return reply(Answer(Word.OK))

    def release(self, *_: Any, **__: Any) -> Reply:
        self.released = True
        raise BrokerUnavailable("scripted")


def test_an_agent_that_can_not_give_back_its_last_grant_ends_in_order() -> None:
    client, told = Late(), list[str]()
    command = Command(["true"])
    agent = Agent(client, command, Terms(), Limits(), ended=lambda _: None, tell=told.append)  # type: ignore[arg-type]  # what it needs of a client
    assert agent.run() is End.STOPPED
    assert client.released
    assert "could not be given back" in told[-1]


class Granting:
    """A client that grants one job after the other. With `then_waits` the second claim waits until it is recalled."""

    factory_id, incarnation = "f", "i"

    def __init__(self, *, then_waits: bool = False) -> None:
        self.then_waits = then_waits
        self.drained = threading.Event()
        self.claims = self.releases = 0

    def claim(self, **_: Any) -> Reply:
        self.claims += 1
        if self.then_waits and self.claims == 2:
            assert self.drained.wait(SOON_S)
            return reply(Answer(Word.DRAINING))
        return grant()

    def drain(self, *_: Any, **__: Any) -> Reply:
        self.drained.set()
        return reply(Answer(Word.OK))

    @contextmanager
    def keep(self, granted: Reply, **_: Any) -> Iterator[Any]:
        yield SimpleNamespace(
            job_id=granted.body["job_id"], epoch=1, queue="q", failures=0, payload={}, release=self.released
        )

    def released(self, reason: str) -> Reply:
        assert reason.startswith("can't run: ")
        self.releases += 1
        return reply(Answer(Word.OK))


def agent_that_starts(client: Granting, start: Any, limits: Limits, tell: Callable[[str], None]) -> Agent:
    return Agent(client, Command(["cmd"], start=start), Terms(), limits, ended=lambda _: None, tell=tell)  # type: ignore[arg-type]  # what it needs of a client


def fails_with(*codes: int) -> Callable[..., Any]:
    left = list(codes)

    def start(argv: Sequence[str], **_: Any) -> Any:
        code = left.pop(0)
        raise OSError(code, os.strerror(code), argv[0])

    return start


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.ENOEXEC], ids=errno.errorcode.get)
@pytest.mark.parametrize(
    ("limits", "waits"),
    [(Limits(), False), (Limits(max_jobs=1), False), (Limits(concurrency=2), True)],
    ids=["alone", "with its last job", "while it waits for another"],
)
def test_an_agent_whose_command_this_machine_can_not_run_gives_its_job_back_and_ends(
    code: int, limits: Limits, waits: bool
) -> None:
    client, told = Granting(then_waits=waits), list[str]()
    # A second start would find nothing to pop.
    assert agent_that_starts(client, fails_with(code), limits, told.append).run() is End.UNABLE
    assert (client.releases, client.drained.is_set()) == (1, waits)
    assert "no more work: this machine can't run the command" in told


def test_an_agent_whose_command_did_not_start_for_now_claims_again_after_growing_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = list[int]()

    def pause_ms(count: int) -> int:
        failures.append(count)
        return 0

    monkeypatch.setattr("broker.agent.agent.pause_ms", pause_ms)
    client, told = Granting(), list[str]()
    start = fails_with(errno.EAGAIN, errno.ENOMEM, errno.ETXTBSY, errno.ENOEXEC)
    assert agent_that_starts(client, start, Limits(), told.append).run() is End.UNABLE
    assert (failures, client.releases) == ([1, 2, 3], 4)
    assert sum("did not start; asking again" in line for line in told) == 3


class Registrar:
    """A client whose registrations are answered like this."""

    def __init__(self, *answers: Reply | ClientError) -> None:
        self.answers = list(answers)

    def register(self) -> Reply:
        answer = self.answers.pop(0)
        if isinstance(answer, ClientError):
            raise answer
        return answer


LATER = reply(Answer(Word.THROTTLED, Reason.STORE, retry_after_ms=5_000))


@pytest.mark.parametrize(
    ("trouble", "pauses_ms"),
    [
        ([LATER, LATER, LATER], [5_000, 5_000, 8_000]),
        ([reply(Answer(Word.OUTCOME_UNKNOWN, Reason.STORE))] * 2, [2_000, 4_000]),
        ([BrokerUnavailable("Redis took nothing: MISCONF Errors writing to the AOF file", answers=True)], [2_000]),
        ([BrokerTimeout("no answer", request_id="r")] * 6, [2_000, 4_000, 8_000, 16_000, 30_000, 30_000]),
    ],
    ids=["throttled", "not known", "Redis takes nothing now", "no answer"],
)
def test_a_registration_is_tried_again_after_growing_pauses_until_it_is_answered(
    trouble: list[Reply | ClientError], pauses_ms: list[int]
) -> None:
    client, pauses, told = Registrar(*trouble, reply(Answer(Word.OK))), list[int](), list[str]()
    _, answer = Registering(told.append, pause=pauses.append).run(lambda: client, lambda client: client.register())  # type: ignore[arg-type,return-value]  # what it needs of a client
    assert answer.good
    assert pauses == pauses_ms
    assert len(told) == len(pauses), "each is told"


@pytest.mark.parametrize("word", [Word.UNAUTHORIZED, Word.INVALID, Word.CONFLICT])
def test_a_final_answer_to_a_registration_is_not_asked_for_again(word: Word) -> None:
    refusal = reply(Answer(word, Reason.RESTARTED if word is Word.CONFLICT else None))
    client, pauses = Registrar(refusal), list[int]()
    _, answer = Registering(lambda _: None, pause=pauses.append).run(lambda: client, lambda client: client.register())  # type: ignore[arg-type,return-value]  # what it needs of a client
    assert (answer, pauses) == (refusal, [])


def test_a_right_that_is_refused_ends_a_registration() -> None:
    client, pauses = Registrar(BrokerUnavailable("Redis refused: NOPERM", refused=True)), list[int]()
    with pytest.raises(BrokerUnavailable, match="NOPERM"):
        Registering(lambda _: None, pause=pauses.append).run(lambda: client, lambda client: client.register())  # type: ignore[arg-type,return-value]  # what it needs of a client
    assert pauses == []
