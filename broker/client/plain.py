"""Which arguments are certainly within their limits, told from the limits themselves in a fraction of pydantic's time.

Only a yes counts. Whatever is not plain goes to pydantic, which decides, and says what is wrong with it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeAlias, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import StringConstraints
from pydantic.fields import FieldInfo

from broker.wire_types import Body

Test: TypeAlias = Callable[[Any], bool]
_INT_MAX = 2**53
_NO_DEFAULT = object()


class Plain:
    """The plain arguments of one kind of body: ids, numbers and flags that no rule ties to each other."""

    def __init__(self, body: type[Body]) -> None:
        fields, tied = body.model_fields, body.tied()
        self._any = not tied or not tied.issuperset(fields)
        self._required = [name for name, field in fields.items() if field.is_required()]
        self._defaults = {name: field.default for name, field in fields.items() if field.default_factory is None}
        self._tests = {
            name: test for name, field in fields.items() if name not in tied and (test := _test_of(field)) is not None
        }

    def told(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """What `given` says beside the defaults; None where that is for pydantic to say."""
        if not self._any:
            return None
        told = {}
        tests, defaults = self._tests, self._defaults
        for name, value in given.items():
            if value is defaults.get(name, _NO_DEFAULT):
                continue
            test = tests.get(name)
            if test is None or not test(value):
                return None
            told[name] = value
        for name in self._required:
            if name not in told:
                return None
        return told


def _test_of(field: FieldInfo) -> Test | None:
    """A test that only values within the limits of `field` pass, if they are of a sort that is known here."""
    kind, *limits = _flat(field)
    if kind is bool and not limits:
        return lambda value: type(value) is bool
    if kind is int and all(type(limit) in (Ge, Gt, Le) for limit in limits):
        return _between(limits)
    if kind is str and len(limits) == 1 and limits[0] == StringConstraints(pattern=getattr(limits[0], "pattern", None)):
        matches = re.compile(limits[0].pattern or ".*").fullmatch
        # Elsewhere than in ASCII, this module's expressions and pydantic's do not mean quite the same.
        return lambda value: type(value) is str and value.isascii() and matches(value) is not None
    return None


def _flat(field: FieldInfo) -> Iterator[Any]:
    """The type of a field, then its limits."""
    annotation: Any = field.annotation
    options = [each for each in get_args(annotation) if each is not type(None)]
    if get_origin(annotation) is not Annotated and len(options) == 1:
        annotation = options[0]
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
    else:
        more = []
    yield annotation
    for limit in (*field.metadata, *more):
        yield from limit.metadata if isinstance(limit, FieldInfo) else (limit,)


def _between(limits: list[Any]) -> Test:
    lowest, highest = 0, _INT_MAX
    for limit in limits:
        match limit:
            case Ge(ge=int(least)):
                lowest = max(lowest, least)
            case Gt(gt=int(below)):
                lowest = max(lowest, below + 1)
            case Le(le=int(most)):
                highest = min(highest, most)
    return lambda value: type(value) is int and lowest <= value <= highest
