"""`broker key`, a fleet that asks for signatures, and the commands that sign: as an operator meets them."""

import json
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from broker import cli, signing
from broker.acl import RedisRole
from broker.clock import host_now_ms
from broker.signing import Key
from tests.fleet import Fleet
from tests.processes import wait_for
from workers.cli.app import build_app

pytestmark = pytest.mark.redis
SIGN = Path(__file__).parent.parent.parent / "examples" / "signed.sh"


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


class Desk:
    """The command line on a host of the broker, with the settings of its fleet. Runs in this process: it is quicker."""

    def __init__(
        self, fleet: Fleet, folder: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.fleet = fleet
        self.folder = folder
        self._patch = patch
        self._capsys = capsys
        self.env = fleet.environment({"BROKER_STATE_DIR": str(folder / "state"), "BROKER_SIGNING": "required"})

    def run(self, *arguments: str, key: str | None = None, **env: str) -> Said:
        keyed = {} if key is None else {"BROKER_KEY_FILE": str(self.folder / key)}
        with self._patch.context() as patch:
            for name, value in {**self.env, **keyed, **env}.items():
                patch.setenv(name, value)
            status = cli.run(build_app(), arguments)
        captured = self._capsys.readouterr()
        return Said(status, captured.out, captured.err)

    def key(self, name: str, *arguments: str) -> str:
        made = self.run("key", "new", "--out", str(self.folder / name), "--json", *arguments)
        assert made.status == 0, made.err
        return str(json.loads(made.out)["key_id"])


@pytest.fixture
def desk(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Desk]:
    logging = structlog.get_config()
    yield Desk(fleet, tmp_path, monkeypatch, capsys)
    structlog.configure(**logging)  # commands make it write to a standard error that ends with this test


def test_the_life_of_keys(desk: Desk) -> None:
    old = desk.key("mac.key", "--factory", "mac-1")
    desk.key("ops.key", "--factory", "ops", "--role", "operator")
    desk.fleet.start_worker(desk.env)
    for secret in (desk.folder / "mac.key", desk.folder / "state" / "signing.secret"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE((desk.folder / "state").stat().st_mode) == 0o700
    job = desk.folder / "job.json"
    job.write_text('{"id": "job", "payload": 1}')
    assert desk.run("submit", str(job), key="mac.key").status == 0
    nobody = desk.run("jobs", "--timeout", "1")
    assert (nobody.status, "unauthorized" in nobody.err) == (1, True), nobody.err
    assert "BROKER_KEY_FILE" in nobody.err
    assert "operator" in desk.run("queue", "pause", "default", key="mac.key").err
    assert desk.run("queue", "pause", "default", key="ops.key").status == 0

    desk.key("new.key", "--factory", "mac-1")
    assert desk.run("key", "revoke", old).status == 0
    wait_for(lambda: "is revoked" in desk.run("jobs", "--timeout", "0.3", key="mac.key").err, "the key is out")
    for arguments in (["jobs"], ["claim", "--wait", "0.1"], ["exec", "--", "true"]):
        at, *rest = arguments
        refused = desk.run(at, "--timeout", "0.3", *rest, key="mac.key")
        assert refused.status == 4, "nobody has proved that it was refused"
        assert f"not signed with the key {old}: it may have been revoked" in refused.err
        assert "\nnext: see `broker key list`" in refused.err
    assert desk.run("jobs", key="new.key").status == 0

    listed = desk.run("key", "list", "--json")
    keys = {each["key_id"]: each for each in map(json.loads, listed.out.splitlines())}
    assert len(keys) == 3
    assert keys[old]["revoked_ms"] is not None
    secrets = [(desk.folder / name).read_text().split()[1] for name in ("mac.key", "new.key", "ops.key")]
    assert not any(secret in listed.out for secret in secrets)
    again = desk.run("key", "new", "--factory", "mac-1", "--out", str(desk.folder / "mac.key"))
    assert (again.status, "does not exist yet" in again.err) == (1, True), again.err
    nowhere = desk.run("key", "new", "--factory", "mac-1", "--out", str(desk.folder / "gone" / "mac.key"))
    assert (nowhere.status, "in a folder that this user may write" in nowhere.err) == (1, True), nowhere.err
    assert desk.run("key", "revoke", "nobody").status == 1


def test_who_makes_a_key_is_told_that_a_secret_was_made_with_it_which_the_workers_must_have(desk: Desk) -> None:
    made = [desk.run("key", "new", "--factory", "mac-1", "--out", str(desk.folder / name)) for name in ("a", "b")]
    assert [each.status for each in made] == [0, 0]
    assert f"note: made a signing secret, {desk.folder / 'state' / 'signing.secret'}" in made[0].err
    assert "this one" in desk.run("key", "list").out
    assert made[1].err == "", "there is one by now"
    (desk.folder / "other.secret").write_text("ab" * 32)
    (desk.folder / "other.secret").chmod(0o600)
    desk.fleet.start_worker(desk.env | {"BROKER_SIGNING_SECRET_FILE": str(desk.folder / "other.secret")})
    refused = desk.run("jobs", "--timeout", "0.5", key="a")
    assert refused.status == 4
    assert "with the signing secret of this worker" in refused.err
    listed = desk.run("key", "list", BROKER_SIGNING_SECRET_FILE=str(desk.folder / "other.secret")).out
    assert (listed.count("another"), "this one" in listed) == (2, False), "as the workers see them"
    unusable = desk.run("key", "list", BROKER_SIGNING_SECRET="short")
    assert (unusable.status, unusable.out.count("mac-1:"), "at least 32" in unusable.err) == (0, 2, True)


def test_a_shell_signs_with_openssl_and_opens_its_reply(desk: Desk) -> None:
    desk.key("mac.key", "--factory", "mac-1")
    desk.fleet.start_worker(desk.env)
    deadline_ms = host_now_ms() + 60_000
    envelope = (
        f'{{"op":"submit","request_id":"r-1","factory_id":"mac-1","incarnation":"b","instance":"x",'
        f'"deadline_ms":{deadline_ms},"body":{{"job_id":"job","payload":"ü % \\\\ \\" $(x)"}}}}'
    )
    channel = "broker:reply:mac-1:x"
    message = _shell(desk, "sign", stdin=envelope.encode())
    assert message == Key.parse((desk.folder / "mac.key").read_text()).signed(signing.REQUEST, envelope.encode())
    desk.fleet.redis.rpush("broker:in:jobs", message)
    wait_for(lambda: desk.fleet.redis.llen(channel), "the reply")
    reply = desk.fleet.redis.lpop(channel)
    assert isinstance(reply, bytes)
    assert json.loads(_shell(desk, "open", channel, stdin=reply))["answer"] == "ok"
    with pytest.raises(subprocess.CalledProcessError):
        _shell(desk, "open", channel, stdin=reply.replace(b'"ok"', b'"OK"'))
    with pytest.raises(subprocess.CalledProcessError):
        _shell(desk, "open", "broker:reply:mac-1:y", stdin=reply)


def _shell(desk: Desk, mode: str, *arguments: str, stdin: bytes) -> bytes:
    argv = ["sh", str(SIGN), mode, str(desk.folder / "mac.key"), *arguments]
    return subprocess.run(argv, input=stdin, capture_output=True, check=True, timeout=30).stdout


def test_signing_without_a_secret_does_not_start(desk: Desk) -> None:
    for command in (("worker", "--burst"), ("up",)):
        refused = desk.run(*command)
        assert refused.status == 1
        assert "broker key new" in refused.err
    short = desk.folder / "short"
    short.write_text("short")
    assert "at least 32" in desk.run("worker", "--burst", BROKER_SIGNING_SECRET_FILE=str(short)).err


def test_keys_of_a_memory_store_are_refused(desk: Desk) -> None:
    assert "use sqlite:///path" in desk.run("key", "list", "--datastore", "memory://").err


@pytest.mark.parametrize("wire", ["rq", "intake"])
def test_who_signs_where_signatures_are_not_looked_at_is_told_so(desk: Desk, wire: str) -> None:
    desk.key("mac.key", "--factory", "mac-1")
    desk.fleet.start_worker(desk.env | {"BROKER_SIGNING": "off"})

    def told() -> bool:
        said = desk.run("jobs", "--timeout", "0.5", key="mac.key", BROKER_WIRE=wire)
        assert said.status == 4, "nobody has proved who answered"
        return "set BROKER_SIGNING of the workers" in said.err

    wait_for(told, "it is said who looks at no signature")


def test_an_empty_file_is_no_password_of_a_redis_user(desk: Desk) -> None:
    (desk.folder / "mac.pw").write_text("\n")
    refused = desk.run("acl", "--factory", "mac-1", "--role", "factory", "--password-file", str(desk.folder / "mac.pw"))
    assert (refused.status, refused.out) == (2, "")
    assert "holds no password" in refused.err


def test_the_redis_users_of_every_role_are_printed_at_once(desk: Desk) -> None:
    printed = desk.run("acl", "--factory", "mac-1")
    assert (printed.status, printed.err) == (0, "")
    lines = dict(zip(RedisRole, printed.out.splitlines(), strict=True))
    asked = {role: ["--factory", name] for role, name in (("factory", "mac-1"), ("submitter", "mac-1-submitter"))}
    for role, line in lines.items():
        alone = desk.run("acl", "--role", role.value, *asked.get(role.value, ()))
        assert alone.out == f"{line}\n", "each can do what it could if it had been printed alone"
    names = [line.split()[2] for line in lines.values()]
    assert names == ["mac-1", "mac-1-submitter", "reader", "worker", "sweep"]


@pytest.mark.parametrize(
    "options",
    [
        ["--factory", "mac-1", "--user", "x"],
        ["--factory", "mac-1", "--password-file", "x"],
        ["--factory", "worker"],
        [],
    ],
)
def test_one_name_and_one_password_are_for_one_redis_user(desk: Desk, options: list[str]) -> None:
    refused = desk.run("acl", *options)
    assert (refused.status, refused.out) == (2, "")
    assert ("--role" if options else "--factory F") in refused.err
