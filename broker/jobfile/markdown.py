"""Front matter: YAML read so that whatever it holds is JSON, and its size bounds what it means."""

import re
from collections.abc import Iterator

import yaml
from pydantic import JsonValue

from broker.jobfile.raw import NESTING_MAX, TOO_DEEP, Faults, Lines, RawJob, Refused, finite, whole
from broker.jobfile.values import shown

FRONT_MATTER_BYTES_MAX = 16_384
_FENCE = "---"
_OCTAL = re.compile(r"[-+]?0[0-9_]+")


def markdown(text: str) -> Iterator[RawJob | Faults]:
    """The one job of a Markdown file: YAML between two lines `---`, then its text."""
    lines = text.split("\n")
    if lines[0].rstrip() != _FENCE:
        yield Faults((1, "expected `---`: a job begins with YAML between two lines `---`, then comes its text"))
        return
    end = next((number for number, line in enumerate(lines) if number and line.rstrip() == _FENCE), None)
    if end is None:
        yield Faults((1, "the front matter is never closed: end it with a line `---`"))
        return
    front = "\n".join(lines[1:end])
    if len(front.encode()) > FRONT_MATTER_BYTES_MAX:
        yield Faults((1, f"the front matter is larger than {FRONT_MATTER_BYTES_MAX} bytes; long text goes below it"))
        return
    line = Lines(front, first=2)
    try:
        items = _yaml_items(front)
    except Refused as error:
        yield Faults((line.at(error.index), error.reason))
        return
    fields = {key: value for key, (_, value) in items.items()}
    yield RawJob(1, fields, {key: line.at(index) for key, (index, _) in items.items()}, "\n".join(lines[end + 1 :]))


def _yaml_items(text: str) -> dict[str, tuple[int, JsonValue]]:
    """The keys of a YAML mapping, with the index each stands at.

    Raises:
      Refused: it is not YAML, or holds what JSON can't.
    """
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        raise Refused(error.position, "holds a character that YAML does not take") from error
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = f"is not valid YAML: {error.problem or error.context}; text with special characters needs quotes"
        raise Refused(mark.index if mark else 0, why) from error
    except (ValueError, OverflowError) as error:  # from chr(), which the scanner calls with what an escape says
        raise Refused(loader.index, "is not valid YAML: an escape beyond the last character of Unicode") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise Refused(root.start_mark.index, "expected lines `key: value` between the two lines `---`")
    return loader.items(root)


class _Loader(yaml.SafeLoader):
    """YAML in which every value is JSON, with neither aliases nor tags, so that its size bounds what it means.

    Beyond YAML 1.1 as PyYAML reads it (`yes`, `on` are true), what surprises is refused or stays text:
    `0755` (octal) is refused, `12:30` (sexagesimal) and dates are text.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it bare
        at = event.start_mark.index if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise Refused(at, "aliases and anchors (`*x`, `&x`) are not taken; text that begins so needs quotes")
        if getattr(event, "tag", None) is not None:
            raise Refused(at, "tags (`!x`) are not taken; text that begins so needs quotes")
        if self._depth >= NESTING_MAX and isinstance(event, yaml.CollectionStartEvent):
            raise Refused(at, TOO_DEEP)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def items(self, node: yaml.MappingNode) -> dict[str, tuple[int, JsonValue]]:
        found: dict[str, tuple[int, JsonValue]] = {}
        for key, value in node.value:
            at = key.start_mark.index
            if key.tag != "tag:yaml.org,2002:str":
                name = f" {shown(key.value)}" if isinstance(key, yaml.ScalarNode) else ""
                raise Refused(at, f"the key{name} is not text for YAML; put it in quotes")
            if key.value in found:
                raise Refused(at, f"the key {shown(key.value)} stands twice")
            found[key.value] = (at, self._value(value))
        return found

    def _value(self, node: yaml.Node) -> JsonValue:
        if isinstance(node, yaml.MappingNode):
            return {key: value for key, (_, value) in self.items(node).items()}
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item) for item in node.value]
        if not isinstance(node, yaml.ScalarNode):
            raise TypeError(f"a fourth kind of YAML node: {node!r}")
        try:
            return self._scalar(node.tag.removeprefix("tag:yaml.org,2002:"), node)
        except ValueError as error:
            raise Refused(node.start_mark.index, f"{error}; put it in quotes if it is text") from error

    def _scalar(self, kind: str, node: yaml.ScalarNode) -> JsonValue:
        text = str(node.value)
        match kind:
            case "null":
                return None
            case "bool":
                return self.bool_values[text.lower()]
            case "int" | "float" if ":" in text:
                return text
            case "int" if _OCTAL.fullmatch(text):
                raise ValueError(f"{shown(text)} would be read as an octal number")
            case "int":
                return whole(text)
            case "float":
                return finite(text)
            case "timestamp":
                return str(self.construct_yaml_timestamp(node).isoformat())
        return text
