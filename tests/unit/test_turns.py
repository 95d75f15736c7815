"""While somebody waits, somebody reads."""

from random import Random

from broker.client.turns import Turns, Waiter


def test_the_first_reads_and_the_one_that_has_waited_longest_reads_next() -> None:
    turns = Turns()
    first, second, third = Waiter(), Waiter(), Waiter()
    for waiter in (first, second, third):
        turns.begin(waiter)
    assert [turns.reads(waiter) for waiter in (first, second, third)] == [True, False, False]
    turns.end(first)
    assert turns.reads(second)
    assert (second.done(), third.done()) == (True, False), "it is woken, and nobody else"


def test_who_leaves_without_reading_changes_nothing() -> None:
    turns = Turns()
    first, second = Waiter(), Waiter()
    turns.begin(first)
    turns.begin(second)
    turns.end(second)
    turns.end(second)
    assert turns.reads(first)
    turns.end(first)
    assert turns.reader is None


def test_nobody_stands_in_while_calls_come() -> None:
    turns = Turns()
    stand_in, caller = Waiter(), Waiter()
    turns.begin(caller)
    assert not turns.stand_in(stand_in)
    turns.end(caller)
    turns.begin(caller)
    turns.end(caller)
    assert not turns.stand_in(stand_in), "there was a call a moment ago"
    assert turns.stand_in(stand_in)
    turns.begin(caller)
    assert turns.wanted
    turns.end(stand_in)
    assert turns.reads(caller)


def test_a_waiter_that_is_woken_before_it_waits_does_not_wait() -> None:
    waiter = Waiter()
    waiter.set_result()
    waiter.set_result()
    assert waiter.done()
    waiter.wait(60_000)
    assert not waiter.done()


def test_somebody_reads_as_long_as_somebody_waits_whatever_the_order() -> None:
    random, turns = Random(5), Turns()
    waiting: list[Waiter] = []
    for _ in range(2_000):
        if waiting and random.random() < 0.5:
            turns.end(waiting.pop(random.randrange(len(waiting))))
        else:
            waiting.append(Waiter())
            turns.begin(waiting[-1])
        assert sum(turns.reads(waiter) for waiter in waiting) == (1 if waiting else 0)
