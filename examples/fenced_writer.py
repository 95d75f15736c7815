"""A holder that was overtaken writes late, and the system downstream refuses it by the epoch of its lease.

    BROKER_REDIS_URL=redis://localhost python examples/fenced_writer.py

The broker refuses a stale holder's answers; it can't reach into the disk, the bucket or the database a job writes
to. There the epoch does it: each write carries the lease's epoch, and the system written to refuses an epoch lower
than the highest it has seen.
"""

import fcntl
import os
import secrets
import sys
import tempfile
from pathlib import Path

from broker.client import Client, FenceGate, InvalidUrl, LeaseLost, StaleEpoch


class Reports:
    """The system downstream: a folder of files that several processes write to.

    It asks the gate and writes under one lock. Asking first and writing later would leave a gap in which a newer
    holder may come and go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._gate = FenceGate.open(f"sqlite:///{folder / 'fence.db'}")

    def write(self, name: str, text: str, *, epoch: int) -> None:
        """Replace a report. `epoch` is that of the lease under which it was made.

        Raises:
          StaleEpoch: a later holder has written, or announced itself. Nothing was changed.
        """
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._gate.admit(name, epoch)
            (self._folder / name).write_text(text)

    def read(self, name: str) -> str:
        """The report as it stands."""
        return (self._folder / name).read_text()

    def close(self) -> None:
        """Give back the gate's store."""
        self._gate.close()


def main() -> int:
    """Let a holder be overtaken while it believes to hold its lease, and see its late write refused."""
    job_id = f"report-{secrets.token_hex(4)}"
    url = os.environ.get("BROKER_REDIS_URL") or sys.exit("set BROKER_REDIS_URL, such as to redis://localhost")
    with (
        tempfile.TemporaryDirectory() as folder,
        Client.connect(url, factory_id="slow") as slow,
        Client.connect(url, factory_id="quick") as quick,
    ):
        reports = Reports(Path(folder))
        slow.submit({"of": "yesterday"}, job_id=job_id)
        try:
            with slow.lease(job_id) as lease:
                reports.write(job_id, "draft", epoch=lease.epoch)
                quick.revoke(job_id, reason="the slow factory looks dead")
                with quick.lease(job_id) as next_lease:
                    reports.write(job_id, "final", epoch=next_lease.epoch)
                    next_lease.complete()
                print(f"epoch {next_lease.epoch} has written")
                # No lease.check() here: this writer does not know yet, or was stopped just before this line.
                reports.write(job_id, "late draft", epoch=lease.epoch)
        except StaleEpoch as refused:
            print(f"refused: {refused}")
        except LeaseLost as lost:
            print(f"lost: {lost}")
        print(f"the report reads: {reports.read(job_id)}")
        reports.close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # the lease was given back on the way here
        sys.exit(130)
    except InvalidUrl as error:
        sys.exit(str(error))
