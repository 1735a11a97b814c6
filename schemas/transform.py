"""A subscription's transform: a JMESPath expression over the event's data, compiled once, run under a bound.

The grammar and the functions are those of the `jmespath` package; the interpreter here is its own with every step
counted, since an expression of thirty characters can double its result at each of them. It stands in `schemas` and not
beside the fan-out because an expression is checked when a subscription is decoded. This file does not choose the event
(`streams/core/fanout.py`) and does not decode Avro.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import orjson
from jmespath import exceptions
from jmespath.functions import Functions
from jmespath.parser import Parser
from jmespath.visitor import TreeInterpreter

from schemas.errors import InvalidTransformError, TransformFailedError

#: Of an expression, in characters.
TRANSFORM_LENGTH_MAX = 4_096
#: Parts of an expression inside each other.
TRANSFORM_DEPTH_MAX = 64
#: Visits of parts, and values looked at by functions and comparisons: about 0.1 s of a processor at most.
TRANSFORM_STEPS_MAX = 100_000
#: Of the result as JSON.
TRANSFORM_BYTES_MAX = 1 << 20
#: So many characters of a string cost as much as one value.
_STEP_CHARACTERS = 64

_functions = Functions()


class _OutOfStepsError(Exception):
    """The bound on steps."""


class Transform:
    """One compiled expression."""

    __slots__ = ("_tree", "text")

    def __init__(self, text: str, tree: dict[str, Any]) -> None:
        self.text = text
        self._tree = tree

    def apply(self, data: object) -> bytes:
        """The JSON of the expression's result for decoded JSON. TransformFailedError with a sentence.

        What an expression does not find is null. Integers beyond 64 bits arrive as floating-point numbers.
        """
        interpreter = _Counting()
        try:
            result = interpreter.visit(self._tree, data)
            interpreter.weigh(result)  # before it is written: a value may stand in it any number of times
            body = orjson.dumps(result)
        except _OutOfStepsError:
            raise TransformFailedError(
                f"the transform takes more than {TRANSFORM_STEPS_MAX} steps on this event"
            ) from None
        except exceptions.JMESPathTypeError as error:  # its own text may hold the value, however large
            expected = " or ".join(map(str, error.expected_types))
            raise TransformFailedError(
                f"the transform gives {error.function_name}() a value of the type {error.actual_type}, not {expected}"
            ) from None
        except RecursionError:
            raise TransformFailedError("the transform works on values that are nested too deeply") from None
        except Exception as error:  # noqa: BLE001 - a function raises what its parts raise: OverflowError, TypeError, ...
            said = str(error)[:200].split("\n", 1)[0]
            raise TransformFailedError(f"the transform fails on this event: {said or type(error).__name__}") from None
        if len(body) > TRANSFORM_BYTES_MAX:
            raise TransformFailedError(f"the transform's result is larger than {TRANSFORM_BYTES_MAX} bytes")
        return body


@lru_cache(maxsize=10_000)
def compile_transform(text: str) -> Transform:
    """InvalidTransformError with the column of what is wrong. Equal texts share one."""
    if len(text) > TRANSFORM_LENGTH_MAX:
        raise InvalidTransformError(f"longer than {TRANSFORM_LENGTH_MAX} characters")
    try:
        tree: Any = Parser().parse(text).parsed
    except exceptions.LexerError as error:
        raise InvalidTransformError(f"column {error.lexer_position + 1}: {error.message}") from None
    except exceptions.IncompleteExpressionError:
        raise InvalidTransformError(f"column {len(text) + 1}: the expression ends too early") from None
    except exceptions.ParseError as error:
        raise InvalidTransformError(f"column {error.lex_position + 1}: {error.msg}") from None
    except exceptions.EmptyExpressionError:
        raise InvalidTransformError("the expression is empty") from None
    except RecursionError:
        raise InvalidTransformError(f"more than {TRANSFORM_DEPTH_MAX} parts inside each other") from None
    except ValueError as error:  # a literal that is no JSON, a number of thousands of digits
        raise InvalidTransformError(str(error)[:200]) from None
    for node, depth in _nodes(tree):
        if depth > TRANSFORM_DEPTH_MAX:
            raise InvalidTransformError(f"more than {TRANSFORM_DEPTH_MAX} parts inside each other")
        _check(node)
    return Transform(text, tree)


def _nodes(tree: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    stack = [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        yield node, depth
        # A slice's children are its numbers.
        stack += [(child, depth + 1) for child in node["children"] if isinstance(child, dict)]


def _check(node: dict[str, Any]) -> None:
    """What the package notices only when it runs the expression."""
    name = node.get("value")
    if node["type"] == "slice" and node["children"][2:] == [0]:
        raise InvalidTransformError("the step of a slice is 0")
    if node["type"] != "function_expression":
        return
    if name not in _functions.FUNCTION_TABLE:
        raise InvalidTransformError(f"there is no function {name}()")
    signature, given = _functions.FUNCTION_TABLE[name]["signature"], len(node["children"])
    variadic = bool(signature and signature[-1].get("variadic"))
    if given < len(signature) or (given > len(signature) and not variadic):
        raise InvalidTransformError(f"{name}() takes {len(signature)} arguments, not {given}")


class _Counting(TreeInterpreter):
    """The package's interpreter, with a price on whatever takes time or memory, to be paid before it is done.

    Each visit of a node costs one step. What the package does to a whole value in one go (functions, comparisons,
    flattening, slices) costs a step for each value in it: results share their parts, so a small one may stand for any
    number of values.
    """

    def __init__(self) -> None:
        super().__init__()
        self._left = TRANSFORM_STEPS_MAX

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self._pay(1)
        return super().visit(node, *args, **kwargs)

    def _pay(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise _OutOfStepsError

    def weigh(self, value: object) -> None:
        """Pay for all that the value holds, as often as it stands in it."""
        stack = [value]
        while stack:
            match stack.pop():
                case str() as text:
                    self._pay(1 + len(text) // _STEP_CHARACTERS)
                case list() as items:
                    self._pay(1 + len(items))
                    stack += items
                case dict() as fields:
                    self._pay(1 + len(fields) + sum(map(len, fields)) // _STEP_CHARACTERS)
                    stack += fields.values()

    def visit_comparator(self, node: Any, value: object) -> Any:
        sides = [self.visit(child, value) for child in node["children"]]
        self.weigh(sides)
        literals = [{"type": "literal", "value": side, "children": []} for side in sides]
        replaced: Any = {**node, "children": literals}
        return super().visit_comparator(replaced, value)

    def visit_function_expression(self, node: Any, value: object) -> Any:
        arguments = [self.visit(child, value) for child in node["children"]]
        self.weigh(arguments)
        match arguments:
            case [str() as glue, list() as parts] if node["value"] == "join":
                self._pay(len(glue) * len(parts) // _STEP_CHARACTERS)
        return _functions.call_function(node["value"], arguments)

    def visit_flatten(self, node: Any, value: object) -> list[Any] | None:
        base = self.visit(node["children"][0], value)
        if not isinstance(base, list):
            return None
        self._pay(sum(len(each) if isinstance(each, list) else 1 for each in base))
        merged: list[Any] = []
        for each in base:
            if isinstance(each, list):
                merged += each
            else:
                merged.append(each)
        return merged

    def visit_slice(self, node: Any, value: object) -> Any:
        if isinstance(value, list):
            self._pay(len(value))
        return super().visit_slice(node, value)
