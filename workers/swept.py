"""What one sweep did, and what of it failed: a step that always fails must not keep those after it from being done."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

import structlog
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Swept:
    """What one sweep did."""

    fired: int = 0
    reaped: int = 0
    stuck: int = 0
    unblocked: int = 0
    runs_mended: int = 0
    units_mended: int = 0
    indexed: int = 0
    waits_ended: int = 0
    woken: int = 0
    failed: list[Exception] = field(default_factory=list)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Note what fails within: what comes after it is done all the same. Without Redis there is no going on."""
        try:
            yield
        except RedisError:
            raise
        except Exception as error:  # a document that can't be read; or a mistake of ours
            log.warning("sweep_step_failed", error=repr(error))
            self.failed.append(error)

    def told(self) -> None:
        """Log what there is to say, and raise the first failure: the pass has failed, though it went on."""
        counts = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("indexed", "failed")
        }
        if any(counts.values()):
            log.info("swept", **counts)
        if self.failed:
            raise self.failed[0]
