"""What the operations on factories carry."""

from typing import Annotated

from pydantic import Field, StringConstraints

from broker.wire_types import PAGE_MAX, Body, FactoryId, LabelText, Millis, Offers


class RegisterBody(Body):
    capacity: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Jobs it runs at once; told, not enforced."""
    version: LabelText | None = None
    offers: Offers = ()
    """What its claims offer that name nothing themselves."""
    asked_ms: Millis | None = None
    """When the sender asked, in broker time as it knows it: orders starts whose requests are settled in another order.
    None, or later than now: now."""


class FactoryBody(Body):
    factory: FactoryId


class DrainBody(FactoryBody):
    reason: Annotated[str, StringConstraints(max_length=1_024)] | None = None
    until_ms: Millis | None = None
    for_ms: Annotated[int, Field(gt=0, le=31_536_000_000)] | None = None
    """The drain ends after this long, or at `until_ms`. Neither: when it is resumed."""
    incarnation: FactoryId | None = None
    """Only this start of it drains."""


class RemoveBody(FactoryBody):
    force: bool = False
    """Also where it holds leases; they end."""


class ListFactoriesBody(Body):
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = 100
    cursor: Annotated[str, StringConstraints(max_length=4_096)] | None = None
