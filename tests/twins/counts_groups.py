"""A store that knows how often a group of writes was begun."""

from contextlib import AbstractContextManager

from datastore.interface import Ahead, nothing_ahead
from tests.twins.forwarding import Forwarding


class CountsGroups(Forwarding):
    """How many groups of writes were begun."""

    groups = 0

    def batch(self, ahead: Ahead = nothing_ahead) -> AbstractContextManager[None]:
        self.groups += 1
        return super().batch(ahead)
