"""The ready index is put right where it has drifted, and costs next to nothing where it has not."""

from collections import Counter
from collections.abc import Sequence

import pytest
import redis

from broker import index, index_drift
from broker.index import Place

PLAIN = [Place(f"job-{number}", "q", "[]", score=number) for number in range(500)]
IN_A_LANE = Place("behind", "q", "[]", score=7, lane="~0~tenant")
KEPT = Place("kept", "q", "[]", score=-9, kept_for="mac-1")


def mend(connection: redis.Redis, places: Sequence[Place]) -> list[Place]:
    """As the sweep does; those that were not there."""
    absent, elsewhere = index_drift.amiss(connection, places)
    index_drift.mend(connection, places, [*absent, *elsewhere])
    return absent


@pytest.fixture
def connection(redis_client: redis.Redis) -> redis.Redis:
    """With all of them in the index."""
    assert mend(redis_client, [*PLAIN, IN_A_LANE, KEPT]) == [*PLAIN, IN_A_LANE, KEPT]
    return redis_client


def commands(connection: redis.Redis) -> Counter[str]:
    return Counter({name: stats["calls"] for name, stats in connection.info("commandstats").items()})


def test_jobs_that_are_where_they_should_be_cost_two_commands_for_their_set(connection: redis.Redis) -> None:
    before = commands(connection)
    assert mend(connection, PLAIN) == []
    spent = commands(connection) - before - Counter({"cmdstat_info": 1})
    assert spent == Counter({"cmdstat_zmscore": 1, "cmdstat_sadd": 1})


def test_a_job_that_is_gone_is_offered_again_and_named(connection: redis.Redis) -> None:
    connection.zrem(PLAIN[3].key, PLAIN[3].job_id)
    connection.delete(IN_A_LANE.line)
    assert mend(connection, [*PLAIN, IN_A_LANE]) == [PLAIN[3], IN_A_LANE]
    assert connection.zscore(PLAIN[3].key, PLAIN[3].job_id) == 3
    assert connection.zscore(IN_A_LANE.line, "behind") == 7


@pytest.mark.parametrize("place", [PLAIN[3], IN_A_LANE], ids=["a job", "in a lane"])
def test_a_job_with_another_score_is_put_back(connection: redis.Redis, place: Place) -> None:
    connection.zadd(place.line, {place.job_id: 1e300})
    assert mend(connection, [place]) == [], "it was offered"
    assert connection.zscore(place.line, place.job_id) == place.score


def test_a_lane_that_nothing_leads_to_is_found_again(connection: redis.Redis) -> None:
    connection.zrem(IN_A_LANE.key, IN_A_LANE.lane)
    assert mend(connection, [IN_A_LANE]) == []
    assert connection.zscore(IN_A_LANE.key, IN_A_LANE.lane) == 7


def test_a_set_whose_name_is_gone_is_known_again(connection: redis.Redis) -> None:
    connection.delete(index.sets_key(index.READY, "q"))
    mend(connection, PLAIN)
    assert connection.smembers(index.sets_key(index.READY, "q")) == {b"[]"}


def test_what_is_kept_for_a_factory_lasts_as_long_as_it_is_said(connection: redis.Redis) -> None:
    connection.persist(KEPT.key)
    mend(connection, [KEPT])
    assert connection.pttl(KEPT.key) > 0
