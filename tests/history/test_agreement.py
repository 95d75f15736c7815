"""The checker, checked: a brute-force search comes to the same verdicts, and notices where a rule is left out."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from broker.history import Record, checker, evidence, job_rules, totals
from broker.history.effects import TERMINAL, Effect, effect_of
from tests.history.agreement import Disagreement, compare


def test_checker_and_search_agree_on_sound_broken_and_wild_histories() -> None:
    counts = compare(range(500))
    assert counts["grants"] > 500, "the sound histories grant next to nothing: they test nothing"
    assert counts["lies_caught"] > 80
    assert counts["wild_caught"] > 200
    assert counts["wild"] > 80
    assert 200 < counts["unfinished"] < counts["sound"] + counts["lies"] + counts["wild"] - 100


def _nothing(*_: Any) -> Iterator[Any]:
    return iter(())


def _unless_several(grants: Sequence[Record], known: Any) -> Iterator[Any]:
    """As if claims for several jobs could get any."""
    calls = {(record.client, record.call) for record in grants}
    return _OTHER_ANSWERS(grants, known) if len(calls) == len(grants) else iter(())


_OTHER_ANSWERS = checker._other_answers


def _if_it_has_an_epoch(record: Record, start: int, number: int) -> Effect | None:
    """As if nothing followed from an answer that leaves its epoch out."""
    return None if record.epoch is None and record.op != "submit" else effect_of(record, start, number)


def _even_at_no_epoch(record: Record, last_open: Effect | None) -> bool:
    """As if a holder could end a lease at epoch 0, where there is none."""
    return _MAY_HAVE_ENDED(record, last_open) or (record.type in ("unknown", "invoke") and record.epoch == 0)


_MAY_HAVE_ENDED = totals._may_have_ended


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [
        (job_rules, "_first_epoch", _nothing),
        (job_rules, "_order", _nothing),
        (job_rules, "_one_holder", _nothing),
        (job_rules, "_one_end", _nothing),
        (job_rules, "_created_once", _nothing),
        (job_rules, "_left", _nothing),
        (job_rules, "_succeeded", lambda _effects: None),
        (evidence, "_is_remembered", lambda *_: False),
        (evidence, "_silent_redrives", lambda *_: []),
        (evidence, "seen_in", lambda *_: None),
        (evidence, "effect_of", _if_it_has_an_epoch),
        (checker, "_other_answers", _nothing),
        (checker, "_other_answers", _unless_several),
        (totals, "_stands", lambda effect, _open: effect.state in TERMINAL),
        (totals, "_stands", lambda *_: False),
        (totals, "_may_have_ended", lambda record, _open: record.type in ("unknown", "invoke")),
        (totals, "_may_have_ended", _even_at_no_epoch),
        (totals, "_may_have_ended", lambda *_: False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_search_notices_a_checker_that_leaves_out(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, instead: Callable[..., Any]
) -> None:
    monkeypatch.setattr(module, name, instead)
    with pytest.raises(Disagreement):
        compare(range(2_000))
