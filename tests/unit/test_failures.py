"""What is logged of a mistake of ours shows no token, however whoever uses the client has set up the log."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import broker

TOKEN = "0123456789abcdef" * 2
AS_IT_COMES = f"""
import structlog
from broker.failures import trace

def renew(token):
    raise ValueError("a mistake")

try:
    renew("{TOKEN}"[:16] + "{TOKEN}"[16:])
except ValueError:
    log = structlog.get_logger()
    {{tell}}
"""


@pytest.mark.parametrize(
    ("tell", "shown"),
    [('log.error("broke", exception=trace())', False), ('log.exception("broke")', True)],
    ids=["as text", "the twin: as structlog does"],
)
def test_a_mistake_is_logged_without_the_values_of_variables(tell: str, shown: bool) -> None:
    program = AS_IT_COMES.format(tell=tell)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    said = told.stdout + told.stderr
    assert "a mistake" in said
    assert "in renew" in said
    assert (f"token = '{TOKEN}'" in said) == shown


def test_nothing_that_runs_in_a_client_leaves_to_the_log_what_is_shown_of_a_mistake() -> None:
    folder = Path(broker.__file__).parent
    sources = {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    assert [path for path, text in sources.items() if re.search(r"log\.exception\(|exc_info=", text)] == []
