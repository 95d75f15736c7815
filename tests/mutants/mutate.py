"""`make mutation`: runs mutmut beside one Cosmos emulator, which all its thousands of test sessions share.

`python -m tests.mutants.mutate [PATTERN…]`; patterns are of the names that mutmut gives its mutants. As each name ends
with a number, `'datastore.sqlite*[05]'` is every fifth: a sample.
"""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from _pytest.outcomes import Skipped

from tests.cosmos.emulator import EMULATOR_VARIABLE, running_emulator

MUTMUT = Path(sys.executable).parent / "mutmut"


def main() -> int:
    """What `mutmut run` returns. Without Node there is no emulator, and the tests on it skip."""
    environment = dict(os.environ)
    with ExitStack() as stack:
        try:
            environment[EMULATOR_VARIABLE] = str(stack.enter_context(running_emulator()))
        except Skipped as reason:
            sys.stderr.write(f"{reason}\n")
        return subprocess.run([MUTMUT, "run", *sys.argv[1:]], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
