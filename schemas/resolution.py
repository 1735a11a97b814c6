"""From bytes written with one schema to the document of another: Avro's schema resolution and the JSON form at once.

fastavro decodes; what its own resolution would do is planned once for a pair of schemas (`schemas/plan.py`), as steps
beside the types of the writer's schema, which fastavro calls with each value as soon as it has decoded it. So what need
not change costs nothing, logical types are the reader's, and an error has its place.

Where fastavro's own resolution (1.13) deviates from Avro 1.12, this does not follow it; `tests/unit/test_resolution.py`
shows each:
- it takes a named type of another kind, but the same name, for a match, and fails inside it;
- of a reader's union it takes the first branch that matches, also by promotion, or by name in another namespace, where
  a later one is the very type (the specification says so too; `matching.branch_for` has why it is not followed);
- where the writer has both a field of the reader's name and one of its alias, it takes whichever comes first;
- it leaves a default as the JSON that it is in the schema: bytes stay text, a nested record's own defaults are missing;
- an empty enum default is none; a logical type is the writer's, also where the reader has another or none;
- a decimal is rounded to the precision of its schema.

This file renders no bytes (`schemas/rendering.py`), fetches no schemas, and says nothing of pairs in general
(`schemas/compatibility.py`).
"""

from __future__ import annotations

from typing import Any

from fastavro.read import LOGICAL_READERS

from schemas import codec
from schemas.errors import UnresolvableError
from schemas.plan import Mark, Plan


class Resolver:
    """Reads what was written with one schema as a document of another. Safe to share: it keeps no state of a record."""

    def __init__(self, writer: str, reader: str | None = None) -> None:
        """Schemas as text; without a reader's, the document is that of the writer's.

        ValueError when one is not a valid Avro schema; UnresolvableError when no record can ever be resolved.
        """
        self._writer = codec.parse_schema(writer)
        self._reader = self._writer if reader is None else codec.parse_schema(reader)
        plan = Plan(self._writer, self._reader)
        if plan.dead is not None:
            raise UnresolvableError(plan.dead.path, plan.dead.sentence)
        self._decoder = plan.decoder(_STEP)

    def record(self, value: bytes) -> Any:
        """The document of a framed value: JSON's own types only, as `render_json` takes them.

        Parts of it may be shared with other documents: it must not be changed. UndecodableError as `codec.decode`;
        UnresolvableError with the place when this record cannot be read with the reader's schema, or has a value
        without a JSON form.
        """
        try:
            return codec.decode(value, self._decoder)["value"]
        except UnresolvableError:
            pass
        # Steps do not know where they are. Decoded once more, those that fail leave a mark, and the mark is looked for.
        marked = codec.decode(value, Plan(self._writer, self._reader).decoder(_MARKING_STEP))["value"]
        raise _found(marked)


# --- steps: called by fastavro with each decoded value of a type that has one ---------------------------------

_STEP = "distributary.step"
_MARKING_STEP = "distributary.marking-step"


def _run(data: Any, writer: Any = None, reader: Any = None) -> Any:
    try:
        return writer["step"](data)
    except ValueError as error:
        raise UnresolvableError("$", str(error)) from None


def _run_marking(data: Any, writer: Any = None, reader: Any = None) -> Any:
    try:
        return writer.get("marking_step", writer["step"])(data)
    except ValueError as error:
        return Mark(str(error))


for _kind in (
    *("null", "boolean", "int", "long", "float", "double", "bytes", "string"),
    *("fixed", "enum", "record", "array", "map"),
):
    LOGICAL_READERS[f"{_kind}-{_STEP}"] = _run
    LOGICAL_READERS[f"{_kind}-{_MARKING_STEP}"] = _run_marking


def _found(document: Any) -> UnresolvableError:
    """What the first mark says. Without recursion: of a record that contains itself the data decides the depth."""
    waiting: list[tuple[Any, Any]] = [("$", document)]
    while waiting:
        place, value = waiting.pop()
        inside: list[tuple[Any, Any]] = []
        if isinstance(value, Mark):
            return UnresolvableError(_path(place), value.sentence)
        if isinstance(value, dict):
            inside = [((place, key), item) for key, item in value.items()]
        elif isinstance(value, list):
            inside = [((place, index), item) for index, item in enumerate(value)]
        waiting += reversed(inside)
    raise AssertionError("a step failed once and not again")


def _path(place: Any) -> str:
    parts = []
    while isinstance(place, tuple):
        place, last = place
        if isinstance(last, int):
            parts.append(f"[{last}]")
        else:
            parts.append(f".{last}" if last.isidentifier() else f"[{last!r}]")
    return "$" + "".join(reversed(parts))
