"""A store that takes jobs and no run records: whoever writes a run fails, or dies first, and the job alone tells."""

from datastore import CreateResult, Datastore, Expected, Patch, Unavailable, UpdateResult
from datastore.interface import Body
from tests.twins.forwarding import Forwarding


class WithoutRuns(Forwarding):
    """Refuses to write run records while `away` is set."""

    def __init__(self, inner: Datastore, *, away: bool = False) -> None:
        super().__init__(inner)
        self.away = away

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        self._refuse(id)
        return super().create(id, partition_key, body)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        self._refuse(id)
        return super().update_if_match(id, partition_key, expected, patch)

    def _refuse(self, id: str) -> None:
        if self.away and ":run:" in id:
            raise Unavailable("no run records now")
