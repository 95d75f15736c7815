"""What a client raises, as one process hands it to another."""

import pickle

import pytest

from broker.answers import Reason, Retry, Word
from broker.client import (
    BrokerTimeout,
    BrokerUnavailable,
    ClientClosed,
    ClientError,
    LeaseLost,
    NotGranted,
    Reply,
    RequestRefused,
)

REPLY = Reply("r", Word.CONFLICT, Reason.HELD, Retry.LATER, 1, {"holder": "f", "epoch": 2}, 500).sent_at(7)


@pytest.mark.parametrize(
    "error",
    [
        LeaseLost("j", 1, "deadline"),
        BrokerTimeout("no answer", request_id="r", reply=REPLY),
        BrokerUnavailable("away", refused=True),
        ClientClosed("closed", request_id="r"),
        RequestRefused(REPLY),
        NotGranted(REPLY),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_in_another_process(error: ClientError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_reply_is_the_same_in_another_process_and_can_not_be_written_on() -> None:
    again = pickle.loads(pickle.dumps(REPLY))  # noqa: S301  # our own
    assert again == REPLY
    with pytest.raises(TypeError):
        again.body["epoch"] = 3
