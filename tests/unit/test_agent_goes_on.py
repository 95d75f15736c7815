"""An agent whose client fails it goes on, or says so: it never just stops asking, nor drops what runs."""

import os
import queue
import signal
import threading
from typing import Any

from broker.agent import Agent, End, Limits, Terms
from broker.agent.claiming import Claiming
from broker.answers import Answer, Word
from broker.client import BrokerUnavailable, ClientError, Reply
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
