"""Feeds a door with inputs and looks at what it does: `python -m tests.fuzz.campaign [INPUTS] [SEED]`, or `make fuzz`.

An input is read, or refused in one of the ways there are. It takes bounded time and memory, nothing said of it shows a
token, and what was read reads the same when it is written again.
"""

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from broker import replies, signing
from broker.answers import Answer, Word, wire
from broker.clock import monotonic_ms
from broker.door import OPEN_DOOR, Door, GuardedDoor
from broker.entropy import SystemEntropy
from broker.keyring import Keyring, Masters, record
from broker.messages import REQUESTS
from broker.parsing import Malformed
from broker.signing import Key, Role
from datastore import connect
from tests.fuzz.inputs import NOW_MS, TOKEN, inputs
from workers.entries import Entry, NotOurs

CPU_S_MAX = 0.25
"""Of this process, for one input of at most 128 KiB; a hundred times what the slowest of a million took."""
MEMORY_KB_MAX = 64_000
"""By which the process may grow."""

Read = Callable[[str, bytes], object]
"""Reads one input for a wire; what it returns, or raises, is judged."""


@dataclass(slots=True)
class Findings:
    """What a campaign has seen."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    grown_kb: int = 0
    wrong: list[str] = field(default_factory=list)


def doors() -> tuple[Callable[[bytes], bytes], list[Door]]:
    """A way to sign, and the doors to knock at."""
    store, masters = connect("memory://"), Masters.parse("0123456789abcdef" * 4)
    key: Key = masters.new_key("mac-1", Role.OPERATOR)
    record(store, SystemEntropy(), key, now_ms=NOW_MS)
    guarded = GuardedDoor(Keyring(masters, store, monotonic_ms), required=False)
    return lambda text: key.signed(signing.REQUEST, text), [OPEN_DOOR, guarded]


def through(door: Door) -> Read:
    """The way of an entry into a worker."""

    def read(wire: str, data: bytes) -> object:
        entry = Entry(wire="rq" if wire == "rq" else "intake", key=data, data=data)
        return door.admit(entry.envelope(), insist=False, now_ms=NOW_MS).request

    return read


def run(stream: Iterable[tuple[str, bytes]], read: Read) -> Findings:
    """Read all of `stream`."""
    found = Findings()
    before_kb = _memory_kb()
    for number, (way, data) in enumerate(stream):
        began = time.process_time()
        try:
            outcome, wrong = _judged(read(way, data))
        except (NotOurs, Malformed) as refusal:
            outcome, wrong = type(refusal).__name__, _said(refusal)
        except Exception as error:
            outcome, wrong = "crash", f"{type(error).__name__}: {error}"
        took_s = time.process_time() - began
        found.slowest_s = max(found.slowest_s, took_s)
        found.outcomes[outcome] += 1
        if took_s > CPU_S_MAX:
            wrong = wrong or f"{took_s:.2f} s"
        if wrong:
            found.wrong.append(f"input {number} ({way}): {wrong[:200]}: {data[:300]!r}")
    found.grown_kb = _memory_kb() - before_kb
    if found.grown_kb > MEMORY_KB_MAX:
        found.wrong.append(f"the process has grown by {found.grown_kb} kB")
    return found


def _judged(request: object) -> tuple[str, str]:
    """How an input that was read counts, and what is wrong with it."""
    again = REQUESTS.validate_json(REQUESTS.dump_json(request))  # type: ignore[arg-type]
    return "read", "" if again == request else "reads otherwise when written again"


def _said(refusal: NotOurs | Malformed) -> str:
    """What is wrong with how an input was refused: its letter and its reply can be written, and show no token."""
    answer = refusal.answer if isinstance(refusal, Malformed) else Answer(Word.INVALID)
    reply = replies.encode(wire(answer, request_id="r", now_ms=NOW_MS))
    return "a token is shown" if TOKEN.encode() in str(refusal).encode() + reply else ""


def _memory_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(count: int, seed: int, *, say: Callable[[str], object]) -> int:
    """Say what is wrong, and one line at the end; the exit status."""
    sign, found = doors()
    total, wrong = Counter[str](), list[str]()
    slowest_s, grown_kb = 0.0, 0
    for door in found:
        findings = run(islice(inputs(seed, sign), count // len(found)), through(door))
        total.update(findings.outcomes)
        wrong += findings.wrong
        slowest_s, grown_kb = max(slowest_s, findings.slowest_s), max(grown_kb, findings.grown_kb)
    for each in wrong[:20]:
        say(each)
    outcomes = " ".join(f"{name}={number}" for name, number in sorted(total.items()))
    say(
        f"fuzz: {'failed' if wrong else 'ok'} seed={seed} inputs={total.total()} {outcomes} wrong={len(wrong)} "
        f"slowest_ms={slowest_s * 1000:.1f} grown_kb={grown_kb}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    sys.exit(main(*given, *(1_000_000, 1)[len(given) :], say=lambda line: sys.stdout.write(f"{line}\n")))
