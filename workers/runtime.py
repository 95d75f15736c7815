"""The composition root: the one place that turns settings into connections, a store and a context."""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.retry import Retry

from broker.clock import RedisClock, monotonic_ms, sleep_ms
from broker.coordinator import Context
from broker.door import OPEN_DOOR, Door, GuardedDoor
from broker.entropy import Entropy, SystemEntropy
from broker.keyring import BadMaster, Keyring, Masters
from broker.redis_password import let_in
from broker.redis_urls import checked, require_known_options
from broker.repository import INDEXES
from broker.searches import SEARCHED
from broker.settings import Settings
from broker.transitions import Rules
from broker.variables import misspelt
from datastore import Datastore, DatastoreError, Missing, connect
from datastore.contract import ContractViolation, require_conditional_writes
from workers.fault_points import At, FaultsRefused, armed, nowhere
from workers.lean_redis import LeanRedis
from workers.logs import configure_logging
from workers.memory_owner import MemoryOwner, MemoryTaken
from workers.one_store import OtherStore, require_own_store, serve_own
from workers.state_dir import StateDir
from workers.store_troubles import Troubles

log = structlog.get_logger(__name__)

SIGNING_FILE = "signing.secret"
"""In the state folder: what every key is derived from, where no setting says otherwise."""
SOCKET_TIMEOUT_S = 10
"""Above every blocking call a worker makes, so that only a dead server runs into it."""
REDIS_VERSION_MIN = (6, 2)
LOST_STEP = "stop the fleet that runs on it with `broker down`, put a backup there or begin anew, and `broker up`"
"""What to do where the file of a fleet that runs is gone."""


class StartError(Exception):
    """A process can't start with what it was given. Nothing was served; the message says what to do."""


class WrongSetting(StartError):
    """... and never will: a setting is wrong in itself."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything a worker or a sweep works with."""

    settings: Settings
    connection: Redis
    store: Datastore
    context: Context
    clock: RedisClock
    memory: MemoryOwner | None
    """Set where the store is this process's memory: proof that no other process serves jobs from its own."""
    mark: str
    """Of the store: what keeps those of another store off this Redis."""
    at: At = nowhere
    """Called at each fault point; does nothing unless a test has armed one."""

    def serve(self, *, session: str = "") -> None:
        """Refuse to serve beside workers of another store. `session`: of a worker that is heard of from now on.

        Raises:
          StartError: they serve here.
          RedisError: Redis did not say.
        """
        with _refusals():
            serve_own(self.connection, self.mark, session=session)

    def close(self) -> None:
        """Give back the store and the connection."""
        if self.memory is not None:
            self.memory.release()
        self.store.close()
        self.connection.close()


def open_runtime(settings: Settings, *, connection: Redis | None = None) -> Runtime:
    """Connect to Redis and the store, and refuse what can't keep the promises.

    Raises:
      StartError: Redis is down, too old or may evict keys; the store can't be reached or ignores
        conditional writes; another process already serves jobs from its memory, or from another store.
      RedisError: Redis refused something, or went away meanwhile.
    """
    for name, meant in misspelt(os.environ):
        log.warning("variable_misspelt", name=name, meant=meant)  # what it was to switch on is off
    with ExitStack() as failing:  # this process may try again, for each request: it must not keep what it could not use
        redis = connection or failing.enter_context(closing(connect_redis(settings, LeanRedis)))
        check_redis(redis)
        url = datastore_url(settings)
        memory = own_memory(redis) if url.startswith("memory:") else None
        if memory is not None:
            failing.callback(memory.release)
        store = failing.enter_context(closing(open_store(settings, url)))
        entropy = SystemEntropy()
        mark = refuse_other_store(redis, store, entropy) if memory is None else memory.mark
        context = Context(store, rules(settings), entropy, sleep_ms, door=open_door(settings, store))
        runtime = Runtime(settings, redis, store, context, RedisClock(redis), memory, mark)
        if settings.faults is not None:
            runtime = _with_faults(runtime, settings.faults)
        failing.pop_all()
    return runtime


def connect_redis(settings: Settings, kind: type[Redis] = Redis, **options: Any) -> Redis:
    """A client for the settings' Redis, or for the fleet that runs in the state folder. Connects at first use.

    It never re-sends a command by itself: a `take` whose answer was lost must be looked for, not repeated.
    """
    url = settings.redis_url or _endpoint_redis(settings)
    try:
        redis = kind.from_url(checked(url), **_ours(), **options)
        let_in(redis.connection_pool, settings.password())
        require_known_options(redis.connection_pool)
    except ValueError as error:
        raise WrongSetting(f"BROKER_REDIS_URL: {error}; use redis://, rediss:// or unix://") from error
    return redis


def own_client(redis: Redis) -> LeanRedis:
    """A client as `connect_redis` makes them, to the server of one that somebody else has made, such as `rq worker`.

    redis-py's own sends a command again whose answer was lost: requests that were taken would be in nobody's hands.
    """
    pool = redis.connection_pool
    given = {**pool.connection_kwargs, **_ours()}
    return LeanRedis(connection_pool=ConnectionPool(connection_class=pool.connection_class, **given))


def _ours() -> dict[str, Any]:
    times_out = {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": SOCKET_TIMEOUT_S}
    return {**times_out, "retry": Retry(NoBackoff(), 0)}


def copy_pool(redis: Redis) -> ConnectionPool:
    """A pool of its own to the same server, for another thread."""
    pool = redis.connection_pool
    return ConnectionPool(connection_class=pool.connection_class, **pool.connection_kwargs)


def check_redis(redis: Redis) -> None:
    """Refuse a server that is down, older than 6.2, or allowed to evict keys (design §6).

    Raises:
      StartError: with what to do about it.
    """
    try:
        info = redis.info("server")
        policy = redis.info("memory").get("maxmemory_policy", "noeviction")
    except AuthenticationError as error:
        raise StartError(f"Redis refused the password: {error}; set BROKER_REDIS_PASSWORD_FILE") from error
    except ResponseError as error:
        wants_password = str(error).startswith("DENIED")  # protected mode: a long text about Redis' own settings
        step = (
            "set a password (requirepass), or `protected-mode no`"
            if wants_password
            else "ask as a worker's user: `broker acl --role worker`"
        )
        raise StartError(f"Redis refused INFO: {str(error).partition('. ')[0]}; {step}") from error
    except RedisError as error:
        raise StartError(f"Redis is not reachable: {error}; start it, or set BROKER_REDIS_URL") from error
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    if version < REDIS_VERSION_MIN:
        raise StartError(f"Redis {info['redis_version']} is too old; use 6.2 or newer")
    if policy != "noeviction":
        raise StartError(f"Redis may evict keys (maxmemory-policy {policy}); set it to noeviction")


def open_store(settings: Settings, url: str, *, create: bool = True) -> Datastore:
    """The datastore, once it has shown that it refuses a bogus etag.

    With `create` a missing SQLite file is made, and the state folder where it is to be in that.

    Raises:
      StartError: it can't be reached, is missing, or ignores conditional writes.
      StateDirError: the state folder can't be used.
      WrongSetting: it is no URL of a store.
    """
    key = None if settings.cosmos_key is None else settings.cosmos_key.get_secret_value()
    if create and settings.datastore_url is None:
        StateDir.at(settings.state_dir)
    try:
        with ExitStack() as failing:
            store = connect(
                url, indexes=INDEXES, searched=SEARCHED, cosmos_key=key, create=create, on_trouble=Troubles()
            )
            failing.callback(store.close)
            require_conditional_writes(store)
            failing.pop_all()
    except ValueError as error:
        raise WrongSetting(f"datastore {url}: {error}; correct BROKER_DATASTORE_URL or --datastore") from error
    except Missing as error:
        raise StartError(f"datastore {url}: {error}; {_what_then(settings, create=create)}") from error
    except (DatastoreError, ContractViolation) as error:
        raise StartError(f"datastore {url}: {error}") from error
    return store


def _what_then(settings: Settings, *, create: bool) -> str:
    """What to do where the datastore, or the folder for it, is missing."""
    if settings.datastore_url is None:
        if StateDir.found(settings.state_dir).running() is not None:
            return LOST_STEP
        return "name the folder of a fleet with --state-dir, or start one with `broker up`"
    otherwise = "make the folder first" if create else "let `broker up` or `broker worker` make it in a folder of yours"
    return f"correct --datastore or BROKER_DATASTORE_URL, or {otherwise}"


def own_memory(redis: Redis) -> MemoryOwner:
    """The right to serve jobs from this process's memory, where those of no other store are served.

    Raises:
      StartError: workers of another store serve there, or another process from its memory.
      RedisError: Redis did not say.
    """
    with _refusals():
        owner = MemoryOwner.take(redis)
        try:
            serve_own(redis, owner.mark)
        except OtherStore:
            owner.release()
            raise
    return owner


def refuse_other_store(redis: Redis, store: Datastore, entropy: Entropy) -> str:
    """The mark of `store`, which several processes may serve, where the jobs served on this Redis are its own, or none.

    Raises:
      StartError: workers of another datastore serve there.
      RedisError: Redis did not say, as this user may not ask, it has no memory left, or can't be reached.
    """
    try:
        with _refusals():
            return require_own_store(redis, store, entropy)
    except DatastoreError as error:
        raise StartError(f"datastore: {error}") from error


@contextmanager
def _refusals() -> Iterator[None]:
    """That another store is served, or another process's memory, is told as what keeps this one from starting."""
    try:
        yield
    except (OtherStore, MemoryTaken) as error:
        raise StartError(str(error)) from error


def open_door(settings: Settings, store: Datastore) -> Door:
    """What requests come in by, as `BROKER_SIGNING` says.

    Raises:
      StartError: requests are to be signed, and there is no secret to check them with.
    """
    if settings.signing == "off":
        return OPEN_DOOR
    masters = signing_masters(settings)
    if masters is None:
        raise StartError(
            f"BROKER_SIGNING={settings.signing}, but there is no signing secret; `broker key new` makes one in the "
            "state folder, or set BROKER_SIGNING_SECRET_FILE"
        )
    return GuardedDoor(Keyring(masters, store, monotonic_ms), required=settings.signing == "required")


def signing_masters(settings: Settings) -> Masters | None:
    """The secrets that keys are derived from: as set, else what the state folder holds; None where there is neither.

    Raises:
      StartError: what there is can't be used.
    """
    try:
        if settings.signing_secret is not None:
            return Masters.parse(settings.signing_secret.get_secret_value())
        path = StateDir.found(settings.state_dir).path / SIGNING_FILE
        return Masters.parse(path.read_text(encoding="ascii")) if path.exists() else None
    except (BadMaster, OSError, UnicodeDecodeError) as error:
        raise StartError(f"signing secret: {error}") from error


def datastore_url(settings: Settings) -> str:
    """Where the jobs are: as set, else as the running fleet says, else SQLite in the state folder."""
    if settings.datastore_url is not None:
        return settings.datastore_url
    state = StateDir.found(settings.state_dir)
    endpoint = state.running()
    return state.datastore_url if endpoint is None else endpoint.datastore_url


def rules(settings: Settings) -> Rules:
    """What the rules work with."""
    return Rules(
        ttl_ms=settings.ttl_ms,
        skew_ms=settings.skew_ms,
        cancel_grace_ms=settings.cancel_grace_ms,
        backoff_base_ms=settings.backoff_base_ms,
        backoff_max_ms=settings.backoff_max_ms,
        ageing_step_ms=settings.ageing_step_ms,
        waiting_max=settings.waiting_max,
    )


def worker_name() -> str:
    """A name no other worker has or had: in-flight lists are kept under it."""
    host = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())[:40]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


def run_worker(settings: Settings, *, burst: bool = False) -> int:
    """Serve requests until told to stop; the process's exit status.

    Raises:
      StartError: it can't start with these settings.
    """
    from workers.claim_worker import ClaimWorker  # rq is imported only by those who run it

    configure_logging(settings.log_level)
    runtime = open_runtime(settings)
    try:
        worker = ClaimWorker.for_runtime(runtime, name=worker_name())
        worker.work(burst=burst)
        return 0
    finally:
        runtime.close()


def run_sweep(settings: Settings, *, once: bool) -> int:
    """Sweep once, or until told to stop; the process's exit status.

    Raises:
      StartError: it can't start with these settings.
    """
    from workers.sweep import Sweep

    configure_logging(settings.log_level)
    if datastore_url(settings).startswith("memory:"):
        raise StartError("no sweep process can reach a memory:// store; leave it to its worker, which sweeps it itself")
    runtime = open_runtime(settings)
    try:
        return Sweep(runtime.context, runtime.connection, settings, at=runtime.at).run(once=once)
    finally:
        runtime.close()


def _with_faults(runtime: Runtime, faults: str) -> Runtime:
    from workers.faulty import with_faults  # only a process that is to be killed loads it

    try:
        at = armed(faults)
    except FaultsRefused as error:
        raise StartError(str(error)) from error
    log.warning("faults_armed", faults=faults)
    return with_faults(runtime, at)


def _endpoint_redis(settings: Settings) -> str:
    endpoint = StateDir.found(settings.state_dir).running()
    if endpoint is None:
        raise StartError(f"no broker runs in {settings.state_dir}; run `broker up`, or set BROKER_REDIS_URL")
    return endpoint.redis_url
