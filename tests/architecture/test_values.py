"""Values that the collector does not look at can't be part of a cycle, or they would never be freed."""

import importlib
import pkgutil
import typing
from collections.abc import Iterator

import pytest

import broker
import datastore
import workers
from datastore.value import Value


def every_value(base: type[Value] = Value) -> Iterator[type[Value]]:
    for each in base.__subclasses__():
        yield each
        yield from every_value(each)


def parts(hint: object) -> Iterator[object]:
    yield hint
    for argument in typing.get_args(hint):
        yield from parts(argument)


@pytest.fixture(scope="module", autouse=True)
def _everything_is_imported() -> None:
    for package in (datastore, broker, workers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def test_no_value_outside_the_collector_holds_an_error() -> None:
    # An error leads to its frames, and these to whatever was at hand there: the value itself, mostly.
    wrong = [
        f"{value.__module__}.{value.__name__}.{name}"
        for value in every_value()
        if not value.__struct_config__.gc
        for name, hint in typing.get_type_hints(value).items()
        for part in parts(hint)
        if isinstance(part, type) and issubclass(part, BaseException)
    ]
    assert wrong == []
