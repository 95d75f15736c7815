"""The benchmark's own judgement: ratios within a round, bars, rotation, and winners that are really single."""

import inspect
import shlex
import socket
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from benchmarks import environments, looks, profile, profiles, run, stacks, telling
from benchmarks.bars import MANY, at_least, at_most, bars, last_line
from benchmarks.index_curve import IN_A_ROUND, SIZES, Point
from benchmarks.keep import document
from benchmarks.limits import limited, limits
from benchmarks.load.driver import Order, Tally
from benchmarks.measure import Measure
from benchmarks.ours.rows import MEMORY_RQ
from benchmarks.ours.shares import lesser_share_percent
from benchmarks.ours.winners import by_store
from benchmarks.plan import Plan, Row
from benchmarks.processes import ROOT, Processes, Violation
from benchmarks.redis_looks import RedisLook
from benchmarks.redis_looks import shares as redis_shares
from benchmarks.replay.recorder import Commands, Recorder
from benchmarks.replay.requests import Requests, group, read_requests, write_requests
from benchmarks.results import Cell, Results, Spread
from benchmarks.rows import FULL, PEERS, QUICK, QUICK_PEERS, by_name
from benchmarks.special import curve, idle, start
from benchmarks.special.counting_worker import Counted, Counting, Counts, counted
from benchmarks.stock.rows import STOCK_RQ
from datastore import Datastore, Expected, connect
from datastore.interface import Update
from datastore.memory import MemoryDatastore


def window(row: str, round: int, per_s: float, *, outstanding: int = 256, p50_us: float = 1.0) -> Measure:
    """A window that showed this."""
    return Measure(row, round, outstanding, per_s, p50_us, 0.0, 5.0, {"redis": 10.0, "worker": 30.0}, 1)


def test_a_ratio_is_taken_within_each_round() -> None:
    results = Results([window("a", 0, 10), window("b", 0, 1), window("a", 1, 100), window("b", 1, 50)])
    assert results.ratio(Cell("a", 256), Cell("b", 256)) == Spread(median=6.0, least=2.0, most=10.0, rounds=2)


def test_a_round_without_the_other_row_gives_no_ratio() -> None:
    results = Results([window("a", 0, 10), window("b", 1, 1)])
    assert results.ratio(Cell("a", 256), Cell("b", 256)) is None


def test_the_best_peer_is_the_one_with_the_highest_median() -> None:
    results = Results(
        [window("a", 0, 10), window("a", 1, 10), window("b", 0, 100), window("b", 1, 1), window("b", 2, 1)]
    )
    assert results.best(["a", "b", "absent"], 256) == "a"


def test_a_bar_holds_is_missed_or_was_not_measured() -> None:
    results = Results(samples={"x": [1.0, 2.0, 9.0]})
    assert at_least("m", 2, lambda found: found.sampled("x")).verdict(results) == "holds"
    assert at_least("m", 3, lambda found: found.sampled("x")).verdict(results) == "missed"
    assert at_most("m", 1.5, lambda found: found.sampled("x")).verdict(results) == "missed"
    assert at_most("m", 3, lambda found: found.sampled("y")).verdict(results) == "not measured"


def test_the_last_line_has_every_figure_and_a_dash_for_what_was_left_out() -> None:
    results = Results(
        [
            window("memory-rq", 0, 1000),
            window("stock-rq", 0, 10),
            window("memory-intake", 0, 1200),
            window("memory-rq", 0, 5, outstanding=1, p50_us=200),
            window("ping", 0, 5, outstanding=1, p50_us=50),
            replace(window("sqlite-next", 0, 5, outstanding=64), extra={"conflicts_percent": 0.25}),
        ],
    )
    assert last_line(results, ["huey"]) == (
        "bench: vs_stock_rq memory=100 intake=120 sqlite=- vs_best_python=- vs_bullmq=- "
        "p50_vs_ping=4 cpu_us=40 conflicts_pct=0.25"
    )


def test_each_round_visits_every_row_and_begins_with_another() -> None:
    rows = tuple(Row(contestant, (1,)) for contestant in (STOCK_RQ, MEMORY_RQ))
    plan = Plan(rows, rounds=2, warm_s=0, window_s=1)
    orders = [[row.contestant.name for row in plan.of_round(round)] for round in range(2)]
    assert orders == [["stock-rq", "memory-rq"], ["memory-rq", "stock-rq"]]


def test_a_row_of_few_rounds_is_left_out_of_the_others() -> None:
    plan = Plan((Row(STOCK_RQ, (1,)), Row(MEMORY_RQ, (1,), rounds=1)), rounds=2, warm_s=0, window_s=1)
    assert [len(plan.of_round(round)) for round in range(2)] == [2, 1]


def test_a_row_asked_for_by_its_name_is_measured_at_all_its_levels_in_the_plan() -> None:
    assert by_name(FULL)["stock-rq"] == Row(STOCK_RQ, (1, 16, 256))
    assert by_name(QUICK)["stock-rq"] == Row(STOCK_RQ, (256,))
    assert by_name(QUICK)["sqlite-2"].levels == (256,), "it is in the full plan only"


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--rows", "ping"], []),
        (["--rows", "stock-rq,huey"], ["huey"]),
        (["--quick"], [*QUICK_PEERS]),
        ([], [*PEERS]),
    ],
)
def test_environments_are_made_of_the_peers_that_are_measured_and_no_others(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], needed: list[str]
) -> None:
    made: list[str] = []
    monkeypatch.setattr(environments, "made", made.append)  # says None: there is none
    results = Results()
    plan = run._plan(run._parser().parse_args(arguments), results, lambda _text: None)
    assert made == needed
    assert not {row.contestant.name for row in plan.rows} & {*PEERS}, "what has no environment is left out"
    assert len(results.failures) == len(needed)


def test_only_answers_within_the_window_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally(Order(outstanding=1, warm_s=0.0, window_s=10.0, first=0, pool=0))
    tally.open()
    start = time.perf_counter()
    tally.note(start, start, won=True)  # before the window has begun
    assert tally.going(start + 1)
    tally.note(start + 1, start + 3, won=True)
    tally.note(start + 1, start + 5, won=False)
    assert not tally.going(start + 11)
    tally.note(start + 1, start + 12, won=True)  # after its end
    told = tally.told()
    assert (told["count"], told["wins"], told["refused"]) == (2, 3, 1)
    assert (round(told["seconds"], 6), round(told["p99_us"])) == (10.0, 4_000_000)
    assert capsys.readouterr().out == "begin\nend\n"


def test_recorded_bytes_are_cut_into_whole_commands() -> None:
    push, ping = b"*3\r\n$5\r\nRPUSH\r\n$1\r\nq\r\n$4\r\na\r\nb\r\n", b"*1\r\n$4\r\nping\r\n"
    for end in range(len(ping)):
        commands = Commands(push + push + ping[:end])
        assert list(commands) == [(push, b"RPUSH"), (push, b"RPUSH")]
        assert commands.rest == ping[:end]
    assert list(Commands(ping)) == [(ping, b"PING")]


def test_a_command_is_recorded_before_its_server_can_answer() -> None:
    push = b"*2\r\n$4\r\nLPOP\r\n$1\r\nq\r\n"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        closing(Recorder(server.getsockname()[1])) as recorder,
        socket.create_connection(("127.0.0.1", recorder.port)) as client,
    ):
        client.sendall(push)
        heard, _ = server.accept()
        with heard:
            assert heard.recv(100) == push
            assert recorder.commands == [push], "what is cleared once an answer has come would come up after it"


def test_a_recording_that_is_no_multiple_of_its_requests_is_refused() -> None:
    assert group([b"a", b"b", b"c", b"d"], 2) == Requests([b"ab", b"cd"], commands=2)
    with pytest.raises(ValueError, match="5 commands"):
        group([b"a"] * 5, 2)


def test_recorded_requests_are_read_as_they_were_written(tmp_path: Path) -> None:
    requests = Requests([b"one", b"", b"three\r\n"], commands=3)
    write_requests(tmp_path / "requests", requests)
    assert read_requests(tmp_path / "requests") == requests


def test_a_job_granted_twice_is_found_in_the_store() -> None:
    store = connect("memory://")
    store.create("job-1", "job-1", {"kind": "job", "state": "leased", "epoch": 2})
    with pytest.raises(Violation, match="epoch 2"):
        by_store(store)


def test_a_second_run_of_a_job_is_found_in_the_store() -> None:
    store = connect("memory://")
    store.create("job-1", "job-1", {"kind": "job", "state": "leased", "epoch": 1})
    for epoch in (1, 2):
        store.create(f"job-1:run:{epoch}", "job-1", {"kind": "run"})
    with pytest.raises(Violation, match="more than one run"):
        by_store(store)


def test_conditional_writes_are_counted_one_by_one_and_together_but_for_those_of_runs(tmp_path: Path) -> None:
    counts = Counts(tmp_path / "1.counts")
    store = Counting(cast("Datastore", MemoryDatastore()), counts)
    for id in ("job-1", "job-1:run:1"):
        store.create(id, "job-1", {})
    right, late = Expected(rev=1), Expected(rev=9)
    store.update_if_match("job-1", "job-1", late, {"epoch": 1})
    store.update_each([Update("job-1", "job-1", version, {"epoch": 1}) for version in (right, late)])
    store.update_each([Update("job-1:run:1", "job-1", right, {"epoch": 1})])
    counts.close()
    assert counted(tmp_path) == Counted(written=1, late=2)


def test_a_late_write_and_a_job_that_is_found_gone_are_a_conflict_each_of_what_was_tried() -> None:
    assert Counted(tried=100, written=100).conflicts_percent == 0
    assert Counted(tried=100, in_vain=31, written=69).conflicts_percent == 31
    assert Counted(tried=90, in_vain=8, written=82, late=10).conflicts_percent == 18


def test_the_counts_of_a_window_are_those_of_all_workers_since_it_began(tmp_path: Path) -> None:
    assert counted(tmp_path) == Counted()
    for number in (1, 2):
        counts = Counts(tmp_path / f"{number}.counts")
        counts.add(Counted(tried=10, in_vain=number))
        counts.close()
    assert counted(tmp_path).since(Counted(tried=5, in_vain=1)) == Counted(tried=15, in_vain=2)


def test_what_workers_were_sent_before_a_window_is_not_in_their_shares() -> None:
    before, after = {1: 1_000, 2: 50_000}, {1: 7_000, 2: 54_000}
    assert lesser_share_percent(before, after) == 40
    assert lesser_share_percent({1: 0, 2: 0}, after) != pytest.approx(40, abs=20), "what counts since the start does"


def test_how_the_processes_of_a_row_were_started_is_kept_beside_its_windows(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    try:
        for setting in ("32", "a b"):
            processes.start("worker", (sys.executable, "-c", "input()"), env={"BENCH": setting}, talks=True)
        processes.end(processes.start("driver", (str(ROOT / "program"),)))
        started = processes.commands()
    finally:
        processes.close()
    line = shlex.join([sys.executable.replace(f"{ROOT}/", ""), "-c", "input()"])
    assert started == {"worker": [f"BENCH=32 {line}", f"BENCH='a b' {line}"]}, "the driver has ended"

    results = Results([replace(window("huey", round, 1.0), commands=started) for round in range(2)])
    told = document(results, Plan((), 2, 0.0, 5.0), (), limited=(), last_line="", at=datetime(2026, 11, 28, tzinfo=UTC))
    assert told["commands"] == [{"row": "huey", "outstanding": 256, **started}]
    assert not any("commands" in each for each in told["measures"])


def test_a_stack_counts_for_the_innermost_step_of_a_request_and_for_each_function_once(tmp_path: Path) -> None:
    batch = ("workers.shift:serve", "broker.batch:settle_batch")
    seen = {
        (*batch, "broker.granting:granted", "datastore.memory:read", "json:loads"): 3,
        (*batch, "broker.granting:granted", "broker.granting:granted"): 1,
        ("workers.shift:serve",): 4,
    }
    stacks.write(tmp_path / "seen", seen)
    kept = stacks.read(tmp_path / "seen")
    assert kept == seen

    steps = {step: share for step, share in stacks.by_step(kept).items() if share}
    assert steps == {"store": 37.5, "rules": 12.5, stacks.REST: 50.0}
    shares = {share.call: (share.own, share.whole) for share in stacks.by_function(kept)}
    assert shares["broker.granting:granted"] == (12.5, 50.0)
    assert shares["workers.shift:serve"] == (50.0, 100.0)


def test_a_stack_is_of_the_call_that_is_a_step_by_itself_before_its_module() -> None:
    seen: dict[stacks.Stack, int] = {
        ("datastore.sqlite_session:Session.transaction", "datastore.sqlite_session:Session._commit"): 3,
        ("datastore.sqlite_session:Session._turns", "datastore.sqlite_lock:FileQueue.take", "threading:wait"): 1,
    }
    steps = {step: share for step, share in stacks.by_step(seen).items() if share}
    assert steps == {"commit": 75.0, "file lock": 25.0}


def test_what_is_seen_in_a_window_counts_by_looks_and_by_the_clock_and_nothing_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.setitimer", lambda *_: None)
    now_ns = iter([5_000_000, 5_007_000, 5_009_000])
    monkeypatch.setattr("time.perf_counter_ns", lambda: next(now_ns))
    frame, path = inspect.currentframe(), tmp_path / "worker-0"
    look = looks.Looks(path)
    look.by_cpu(0, frame)
    look.turn(0, frame)
    look.by_cpu(0, frame)
    look.by_clock(0, frame)
    look.turn(0, frame)
    cpu, clock = (stacks.read(looks.kept(path, kind)) for kind in ("cpu", "clock"))
    assert (cpu.total(), clock.total()) == (1, 9)
    assert all(stack[-1].endswith("and_nothing_before") for stack in (*cpu, *clock))


def test_the_cpu_time_of_redis_is_shared_out_between_the_first_look_and_the_last() -> None:
    first, last = RedisLook(100.0, 50.0, 10.0), RedisLook(160.0, 90.0, 30.0)
    assert redis_shares([first, last]) == {"system calls": 40.0, "scripts": 20.0, "other commands": 40.0}
    waited = last._replace(scripts_us=999.0)  # for a core, in a script
    assert redis_shares([first, waited]) == {"system calls": 40.0, "scripts": 60.0, "other commands": 0.0}


def test_what_finding_a_job_takes_is_compared_in_each_round_in_the_worse_case() -> None:
    def point(jobs: int, keyed: bool, *rounds: float) -> Point:
        return Point(jobs, keyed, tuple(us for us in rounds for _ in range(IN_A_ROUND)), ())

    plain = (point(10, False, 1.0, 1.0), point(20, False, 1.0, 5.0))
    keyed = (point(10, True, 1.0, 2.0), point(20, True, 4.0, 6.0))
    assert curve.ratios((*plain, *keyed), above=20, below=10) == [4.0, 3.0]
    assert curve.ratios((*keyed, *plain), above=20, below=10) == [4.0, 3.0]


def test_imports_are_summed_by_package_and_those_of_python_together() -> None:
    log = """import time: self [us] | cumulative | imported package
import time:       300 |        300 |   _io
import time:      1500 |      99000 |     rq.job
import time:       500 |       2000 | rq
import time:       700 |        700 | json.decoder
another line"""
    assert start.by_package(log) == {"rq": 2.0, start.PYTHON: 1.0, "others": 0.0}


def whole_run() -> Results:
    """A run that has measured all there is."""
    peers = [window(row, 0, 1_000, outstanding=level) for row in ("huey", "bullmq") for level in (1, 16, 256)]
    ours = [window(row.contestant.name, 0, 1_000, outstanding=level) for row in FULL.rows for level in row.levels]
    extra = {telling.IDLE_PERCENT: 10.0, telling.FSYNC_US: 250.0}
    steps = [
        profiles.name(row.name, outstanding, role, kind, "store")
        for row, outstanding in profile.PUBLISHED
        for role in (*profile.ROLES, "redis")
        for kind in ("cpu", "clock")
    ]
    sizes = [f"{curve.NAME} {size}{keyed}" for size in SIZES for keyed in ("", " keyed")]
    shares = [f"{idle.PERCENT} {role}" for role in ("redis", "worker", "sweep")]
    names = [*steps, *sizes, *(f"redis {each}" for each in sizes), *shares, idle.COMMANDS, start.TOLD_MS]
    samples = {name: [50.0] for name in (*names, f"{start.IMPORTS}rq")}
    return Results([replace(each, extra=extra) for each in (*ours, *peers)], samples)


def test_a_whole_run_measures_every_part_of_what_limits_each_bar() -> None:
    results, parts = whole_run(), limits(["huey"])
    assert list(dict(limited(results, bars(["huey"]), ["huey"]))) == [bar.measure for bar in bars(["huey"])]
    assert set(parts) == {bar.measure for bar in bars(["huey"])}
    silent = [
        (measure, number) for measure, each in parts.items() for number, part in enumerate(each) if not part(results)
    ]
    assert silent == []


def test_what_limits_a_bar_is_told_in_figures_of_the_run_and_not_at_all_where_it_measured_none() -> None:
    results = whole_run()
    cores = telling.cores("memory-rq", MANY)(results)
    of_all = 1e-4 * 1_000 / telling.CORES
    assert cores == (
        f"memory-rq at 256: redis {10 * of_all:.0f}, worker {30 * of_all:.0f}, "
        f"other programs {90 - 40 * of_all:.0f}, nobody 10 % of {telling.CORES} cores"
    )
    assert telling.us_of_cpu("memory-rq", MANY)(results) == "memory-rq's worker 30 us: store 15"
    assert telling.us_by_clock("sqlite-1")(results) == "sqlite-1's worker 1000 us a claim (mean): store 500"
    assert limited(Results(), bars(["huey"]), ["huey"])[0][1] == "-"


def test_the_bars_of_sqlite_have_the_time_of_an_fsync_beside_them() -> None:
    beside = [bar.measure for bar in bars([]) if bar.measured(whole_run()).endswith("; fsync 250 us")]
    assert beside == [f"grants/s, SQLite, {count}, against stock rq, 256" for count in ("1 worker", "2 workers")]
