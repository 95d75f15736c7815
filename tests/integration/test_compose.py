"""docker-compose.yml can't rot: it is whole, and each service's own command does its work as a local process."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from broker.claim_next import WAIT_ENDS
from tests.compose import COMPOSE_FILE, ROOT, LocalCompose, argv, services
from tests.processes import wait_for
from workers.embedded import find_server

SERVICES = services()
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "claim-broker"}
ONE_SHOT = {"cli", "cosmos-schema"}
KEYS = {
    *("image", "build", "command", "environment", "init", "restart", "healthcheck", "depends_on", "profiles", "deploy"),
    *("volumes", "tmpfs", "read_only", "cap_drop", "security_opt", "stop_grace_period", "network_mode"),
}
"""Of the Compose specification, those that are used here: a misspelt one would be refused only by a real engine."""
CHECK_KEYS = {"test", "interval", "timeout", "retries", "start_period", "start_interval"}
JOBS = 9
STOP_MS = 20_000


def replicas(name: str) -> int:
    count: int = SERVICES[name].get("deploy", {}).get("replicas", 1)
    return count


def test_the_default_is_valkey_two_workers_a_sweep_and_three_factories() -> None:
    default = {name: replicas(name) for name, service in SERVICES.items() if "profiles" not in service}
    assert default == {"valkey": 1, "worker": 2, "sweep": 1, "factory": 3}


def test_the_cosmos_profile_has_the_official_emulator_and_a_one_shot_schema_step() -> None:
    assert SERVICES["cosmos"]["image"].startswith("mcr.microsoft.com/cosmosdb/linux/azure-cosmos-emulator:vnext-")
    assert SERVICES["cosmos-schema"]["restart"].startswith("on-failure")
    for name in ("cosmos-worker", "cosmos-sweep"):
        assert SERVICES[name]["depends_on"]["cosmos-schema"] == {"condition": "service_completed_successfully"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_says_what_compose_needs(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= KEYS
    assert set(service.get("healthcheck", {})) <= CHECK_KEYS
    assert all(isinstance(part, str) for part in service.get("command", []))
    assert ":" in service["image"] or service["build"] == ".", "pinned by a tag, or built here"
    assert not service["image"].endswith(":latest")
    for dependency, condition in service.get("depends_on", {}).items():
        assert set(service_profiles(dependency)) <= set(service_profiles(name)), "it would not be started"
        healthy = condition["condition"] == "service_healthy"
        assert not healthy or "healthcheck" in SERVICES[dependency]
        assert healthy or condition["condition"] == "service_completed_successfully"
    mode = service.get("network_mode", "service:valkey")
    assert mode.removeprefix("service:") in SERVICES


def service_profiles(name: str) -> list[str]:
    profiles: list[str] = SERVICES[name].get("profiles", [])
    return profiles


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in ONE_SHOT])
def test_a_service_that_stays_is_checked_restarted_and_given_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["restart"] == "unless-stopped"
    assert name == "cosmos" or (service["init"] is True and service["stop_grace_period"])


def test_every_volume_is_declared() -> None:
    declared = set(yaml.safe_load(COMPOSE_FILE.read_text())["volumes"])
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert used == declared


@pytest.mark.parametrize("path", [COMPOSE_FILE, ROOT / "examples/compose/password.yml"], ids=lambda path: path.stem)
def test_valkey_keeps_its_data_evicts_nothing_and_holds_little_for_who_does_not_read(
    compose: LocalCompose, path: Path
) -> None:
    socket = compose.folder / "compose.sock"
    command = yaml.safe_load(path.read_text(encoding="utf-8"))["services"]["valkey"]["command"]
    (compose.folder / "valkey_conf").write_text("")
    given = [word.replace("/run/secrets", str(compose.folder)) for word in command]
    here = ["--port", "0", "--unixsocket", str(socket), "--dir", str(compose.folder)]
    server = {**SERVICES["valkey"], "command": given + here}
    (compose.folder / "valkey").mkdir()
    (compose.folder / "valkey/valkey-server").symlink_to(find_server())
    compose.start(server, host="valkey")
    wait_for(socket.exists, "the server listens")
    client = redis.Redis(unix_socket_path=str(socket), decode_responses=True)
    found = client.config_get("appendonly", "maxmemory-policy", "proto-max-bulk-len", "client-output*", "maxmemory-c*")
    assert str(found.pop("client-output-buffer-limit")).startswith(f"normal {256 << 20} {64 << 20} 10 ")
    assert found == {
        "proto-max-bulk-len": str(64 << 20),
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
        "maxmemory-clients": str(512 << 20),
    }
    client.close()


def test_no_port_is_published_as_nothing_has_a_password() -> None:
    assert not any("ports" in service for service in SERVICES.values())


def test_workers_of_two_datastores_never_serve_one_redis_database() -> None:
    stores: dict[str, set[str]] = {}
    for service in OURS.values():
        variables = service["environment"]
        if "BROKER_DATASTORE_URL" in variables:
            stores.setdefault(variables["BROKER_REDIS_URL"], set()).add(variables["BROKER_DATASTORE_URL"])
    assert len(stores) == 2
    assert all(len(urls) == 1 for urls in stores.values())


@pytest.mark.parametrize("path", sorted((ROOT / "examples/compose").glob("*.yml")), ids=lambda path: path.stem)
def test_an_override_changes_services_that_exist_and_declares_its_secrets(path: Path) -> None:
    override = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, changed in override["services"].items():
        assert name in SERVICES or changed["image"] == "claim-broker"
        assert set(changed["secrets"]) <= set(override["secrets"])
        for variable, value in changed.get("environment", {}).items():
            assert not variable.endswith("_FILE") or value.removeprefix("/run/secrets/") in changed["secrets"]


@pytest.fixture
def compose(redis_url: str, tmp_path: Path) -> Iterator[LocalCompose]:
    """The services of the default fleet, mapped to the embedded Valkey and a folder for /data."""
    local = LocalCompose({"redis://valkey:6379/0": redis_url, "/data/": f"{tmp_path}/"}, tmp_path)
    yield local
    local.close()


@pytest.mark.slow
def test_the_default_fleet_completes_jobs_is_healthy_and_stops(
    compose: LocalCompose, redis_client: redis.Redis, tmp_path: Path
) -> None:
    check_fleet(compose, redis_client, tmp_path, prefix="")


@pytest.mark.slow
@pytest.mark.cosmos
def test_the_cosmos_fleet_completes_jobs_after_its_schema_step(
    redis_url: str, redis_client: redis.Redis, cosmos_url: str, tmp_path: Path
) -> None:
    emulator = "cosmos://localhost:8081/broker/jobs?http=1&discovery=0"
    mapping = {"redis://valkey:6379/1": redis_url, emulator: cosmos_url.replace("&create=1", "&discovery=0")}
    compose = LocalCompose(mapping, tmp_path)
    try:
        schema = SERVICES["cosmos-schema"]
        made = compose.run(schema, schema["command"], host="schema")
        assert made.returncode == 0, made.stdout + made.stderr
        check_fleet(compose, redis_client, tmp_path, prefix="cosmos-")
    finally:
        compose.close()


def check_fleet(compose: LocalCompose, redis_client: redis.Redis, folder: Path, *, prefix: str) -> None:
    """Start as many of each service as the file says, give them work, ask their health, stop them."""
    running: dict[str, subprocess.Popen[str]] = {}
    for name in (f"{prefix}worker", f"{prefix}sweep", f"{prefix}factory"):
        for number in range(replicas(name)):
            running[f"{name}-{number}"] = compose.start(SERVICES[name], host=f"{name}-{number}")
    factories = {host for host in running if "factory" in host}
    wait_for(
        lambda: redis_client.zcard(WAIT_ENDS) == len(factories), "every factory waits for work", deadline_ms=60_000
    )

    cli = SERVICES["cli"] if not prefix else SERVICES["cosmos-factory"]
    (folder / "jobs.jsonl").write_text("".join(json.dumps({"id": f"job-{each}"}) + "\n" for each in range(JOBS)))
    submitted = compose.run(cli, ["broker", "submit", str(folder / "jobs.jsonl")], host="cli")
    assert submitted.returncode == 0, submitted.stderr
    wait_for(lambda: len(listed(compose, cli, "succeeded")) == JOBS, "every job is done", deadline_ms=60_000)
    runs = [run for each in range(JOBS) for run in listed_runs(compose, cli, f"job-{each}")]
    assert {run["epoch"] for run in runs} == {1}
    assert {run["factory_id"] for run in runs} == factories, "each took one of the first three, as all were waiting"

    for name in (f"{prefix}worker", f"{prefix}sweep", f"{prefix}factory"):
        check = SERVICES[name]["healthcheck"]["test"]
        assert check[0] == "CMD"
        healthy = compose.run(SERVICES[name], check[1:], host=f"{name}-0")
        assert healthy.returncode == 0, healthy.stderr

    for process in running.values():
        process.terminate()
    wait_for(lambda: all(each.poll() is not None for each in running.values()), "all have stopped", deadline_ms=STOP_MS)
    assert {host: process.returncode for host, process in running.items()} == dict.fromkeys(running, 0)


def listed(compose: LocalCompose, cli: dict[str, Any], state: str) -> list[dict[str, Any]]:
    found = compose.run(cli, ["broker", "jobs", "--state", state, "--json"], host="cli")
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def listed_runs(compose: LocalCompose, cli: dict[str, Any], job_id: str) -> list[dict[str, Any]]:
    found = compose.run(cli, ["broker", "runs", job_id, "--json"], host="cli")
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_a_health_check_fails_where_nothing_answers(tmp_path: Path) -> None:
    nowhere = LocalCompose(
        {"redis://valkey:6379/0": f"unix://{tmp_path}/none.sock", "/data/": f"{tmp_path}/"}, tmp_path
    )
    check = SERVICES["worker"]["healthcheck"]["test"]
    unhealthy = nowhere.run(SERVICES["worker"], check[1:], host="worker-0")
    assert unhealthy.returncode != 0
    assert "Redis" in unhealthy.stderr, "it failed for another reason"


def test_a_factory_that_is_stopped_gives_its_job_back(compose: LocalCompose) -> None:
    compose.start(SERVICES["worker"], host="worker-0")
    variables = {**SERVICES["factory"]["environment"], "AGENT": "exec sleep 600", "STOP_AFTER": "1"}
    busy = {**SERVICES["factory"], "environment": variables}
    factory = compose.start(busy, host="factory-0")
    cli = SERVICES["cli"]
    (compose.folder / "job.json").write_text('{"id": "long"}')
    submitted = compose.run(cli, ["broker", "submit", str(compose.folder / "job.json")], host="cli")
    assert submitted.returncode == 0, submitted.stderr
    wait_for(lambda: listed(compose, cli, "leased"), "the job runs", deadline_ms=30_000)
    factory.terminate()
    wait_for(lambda: factory.poll() is not None, "the factory has stopped", deadline_ms=STOP_MS)
    [run] = listed_runs(compose, cli, "long")
    assert run["outcome"] == "released"


def dockerfile() -> list[list[str]]:
    """The instructions of the Dockerfile, continued lines joined, each split into words."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_the_image_is_built_in_two_stages_and_does_not_run_as_root() -> None:
    instructions = dockerfile()
    stages = [index for index, words in enumerate(instructions) if words[0] == "FROM"]
    assert len(stages) == 2
    last = instructions[stages[-1] :]
    assert [words for words in last if words[0] == "USER"] == [["USER", "10001:10001"]]
    assert not any(words[0] == "ADD" or "curl" in words or "wget" in words for words in instructions)
    assert all(":" in words[1] and not words[1].endswith(":latest") for words in instructions if words[0] == "FROM")


def test_the_image_gets_what_the_package_needs_and_nothing_else() -> None:
    copied = {words[1] for words in dockerfile() if words[0] == "COPY" and not words[1].startswith("--")}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_no_command_uses_a_variable_that_compose_would_fill_in() -> None:
    for service in SERVICES.values():
        for command in (service.get("command", []), service.get("healthcheck", {}).get("test", [])):
            argv(command)
