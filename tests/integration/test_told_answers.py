"""What docs/cli.md lists as the fields of each good answer is what the broker says."""

import re
from typing import Any

import pytest

from tests.architecture.source import ROOT
from tests.in_process import InProcess

pytestmark = pytest.mark.redis


def told() -> dict[str, set[str]]:
    """The fields of each command's answer, by the table of the answer object."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    table = text.split("### The answer object")[1].split("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line[:2] == "| "]
    found: dict[str, set[str]] = {}
    for commands, _, fields in rows[1:]:
        for command in re.findall(r"`([a-z-]+)`", commands):
            found[command.replace("-", "_")] = set(re.findall(r"[a-z_]+", fields.split("`")[1]))
    return found


def said(broker: InProcess) -> dict[str, set[str]]:
    """The fields of the answers to what happens to a few jobs."""
    found: dict[str, set[str]] = {}

    def ask(op: str, **body: Any) -> dict[str, Any]:
        reply = broker.ask(broker.caller.make(op, **body))[0]
        assert reply["answer"] in ("ok", "granted", "renewed"), (op, reply)
        found[op] = set(reply["body"])
        return dict(reply["body"])

    def hold(job_id: str) -> dict[str, Any]:
        ask("submit", job_id=job_id)
        grant = ask("claim", job_id=job_id)
        return {name: grant[name] for name in ("job_id", "epoch", "token")}

    lease = hold("a")
    ask("renew", **lease)
    ask("renew_many", leases=[lease])
    ask("progress", **lease, progress=1)
    ask("complete", **lease)
    ask("fail", **hold("b"))
    ask("release", **hold("c"))
    ask("hand_over", **hold("d"), to="other")
    hold("e")
    ask("revoke", job_id="e")
    for op in ("hold", "lift", "cancel", "redrive"):
        ask(op, job_id="e")
    return found


def test_the_fields_of_answers_are_those_of_the_documentation(broker: InProcess) -> None:
    answered, fields = said(broker), told()
    assert {op: fields[op] - answered[op] for op in answered if fields[op] - answered[op]} == {}, "not said"
    for op in ("claim", "submit", "cancel", "redrive", "revoke", "hold", "lift"):
        assert answered[op] == fields[op], op
