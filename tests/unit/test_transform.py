"""Transforms: what they give, where they are refused, and that none of them can stop the fan-out."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import transform as module
from schemas.errors import InvalidTransformError, TransformFailedError
from schemas.transform import TRANSFORM_BYTES_MAX, TRANSFORM_LENGTH_MAX, TRANSFORM_STEPS_MAX, compile_transform

ORDER = {
    "id": "o-17",
    "lines": [{"sku": "a", "count": 2, "price": 10}, {"sku": "b", "count": 1, "price": 5.5}],
    "customer": {"name": "Åse", "vip": False},
    "big": 2**63,
}


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("@", ORDER),
        ("id", "o-17"),
        ("{order: id, skus: lines[*].sku}", {"order": "o-17", "skus": ["a", "b"]}),
        ("lines[?count > `1`].sku | [0]", "a"),
        ("lines[?count == `1` && sku != 'a'].sku", ["b"]),
        ("customer.name", "Åse"),
        ("sum(lines[*].price)", 15.5),
        ("join('-', lines[*].sku)", "a-b"),
        ("[lines[*].sku, [id]][]", ["a", "b", "o-17"]),
        ("lines[::-1].sku", ["b", "a"]),
        ("sort_by(lines, &price)[0].sku", "b"),
        ("to_string(customer.vip)", "false"),
        ("big", 2**63),
        ("nothing.here", None),
        ("customer[]", None),
        ("id[::1]", None),
    ],
)
def test_what_it_gives(expression: str, result: object) -> None:
    assert orjson.loads(compile_transform(expression).apply(ORDER)) == result


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("", "the expression is empty"),
        ("a.", "column 3: "),
        ("a[", "column 3: the expression ends too early"),
        ("a b", "column 3: Unexpected token: b"),
        ("a.'b", "column 3: Unclosed"),
        ("nosuch(a)", "there is no function nosuch()"),
        ("a.{b: length(a, b)}", "length() takes 1 arguments, not 2"),
        ("merge()", "merge() takes 1 arguments, not 0"),
        ("a[::0]", "the step of a slice is 0"),
        ("(" * 100 + "a" + ")" * 100 + "|" + "|".join("a" * 70), "more than 64 parts inside each other"),
        ("(" * 2_000 + "a" + ")" * 2_000, "more than 64 parts inside each other"),
        ("a" * (TRANSFORM_LENGTH_MAX + 1), "longer than 4096 characters"),
        ("a[" + "1" * 4_090 + "]", None),
    ],
)
def test_what_is_refused_and_where(expression: str, sentence: str | None) -> None:
    if sentence is None:  # huge, and an index like any other
        assert compile_transform(expression).apply({"a": [1]}) == b"null"
        return
    with pytest.raises(InvalidTransformError, match=re.escape(sentence)):
        compile_transform(expression)


OUT_OF_STEPS = f"more than {TRANSFORM_STEPS_MAX} steps"


@pytest.mark.parametrize(
    ("expression", "data", "sentence"),
    [
        ("@" + "|[@,@]" * 50, 1, OUT_OF_STEPS),  # two to the fiftieth values in the result, fifty in memory
        ("@" + "|[@,@][]" * 50, [1], OUT_OF_STEPS),  # the same without sharing
        ("@" + "|{a:@,b:@}" * 50, 1, OUT_OF_STEPS),
        ("to_string(@" + "|[@,@]" * 50 + ")", 1, OUT_OF_STEPS),
        ("length([@" + "|[@,@]" * 50 + "])", 1, OUT_OF_STEPS),
        ("[@,@]" + "|[@,@]" * 50 + "|[0]==[1]", [1], OUT_OF_STEPS),
        ("[*][*][*]|[][]|[@,@][]|[@,@,@,@][]", [[[1] * 50] * 50] * 50, OUT_OF_STEPS),
        ("join(glue, parts)", {"glue": "x" * 1_000_000, "parts": [""] * 1_000}, OUT_OF_STEPS),
        ("[]", [[0] * 50_000] * 50_000, OUT_OF_STEPS),
        ("[*][::2]", [[0] * 200] * 1_000, OUT_OF_STEPS),
        ("@", ["x" * 100_000] * 1_000, OUT_OF_STEPS),
        ("@", {"k" * 100_000 + str(n): 1 for n in range(100)}, OUT_OF_STEPS),
        ("@", ["\x00" * 50_000] * 80, f"larger than {TRANSFORM_BYTES_MAX} bytes"),
        ("length(a)", {"a": 1}, "gives length() a value of the type number, not string or array or object"),
        ("sum(@)", ["x" * 1_000], "gives sum() a value of the type str, not array-number"),
        ("max_by(@, &a)", [{"a": 1}, {"a": "b"}], "fails on this event: "),
        ("floor(@)", float("inf"), "fails on this event: cannot convert float infinity"),
        ("&a", 1, "fails on this event: Type is not JSON serializable: _Expression"),
    ],
)
def test_what_fails_ends_soon_and_says_why(expression: str, data: object, sentence: str) -> None:
    with pytest.raises(TransformFailedError, match=re.escape(sentence)) as failed:
        compile_transform(expression).apply(data)
    assert len(str(failed.value)) < 400


def test_values_nested_too_deeply_for_the_package() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TransformFailedError):
        compile_transform("to_string(@)").apply(deep)


def test_a_comparison_visits_each_side_once() -> None:
    """Twice would be two to the depth for comparisons inside comparisons."""
    expression = "a" + "".join(f" == ({n} == b" for n in "cdefghijklmnop") + ")" * 14
    interpreter = module._Counting()
    interpreter.visit(compile_transform(expression)._tree, {})
    assert TRANSFORM_STEPS_MAX - interpreter._left < 500


def test_equal_expressions_are_compiled_once() -> None:
    assert compile_transform("a.b.c") is compile_transform("a." + "b.c")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=20,
)
parts = st.sampled_from(
    ["a", "b", "@", "[*]", "[]", "[0]", "[?a]", "[@,@]", "{a:@,b:a}", "*", "keys(@)", "sort(@)", "map(&a,@)", "[::2]"]
)


@given(st.lists(parts, min_size=1, max_size=12).map(" | ".join), values)
def test_any_expression_on_any_value_gives_json_or_fails_with_a_sentence(expression: str, data: object) -> None:
    compiled = compile_transform(expression)
    with contextlib.suppress(TransformFailedError):
        orjson.loads(compiled.apply(data))


@given(st.text(alphabet="ab@.*[]{}()|&!?:,'`\"0- ", max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidTransformError):
        compile_transform(text)
