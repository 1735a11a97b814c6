"""What may be written to a registry, and which of Confluent's codes says why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from connectors import registry_rules as rules
from connectors.registry_log import Key, apply, encode_key, encode_value
from connectors.registry_rules import Asked, Decision, RefusedError
from connectors.registry_state import Entry, State
from schemas.references import Reference


def text_of(*names: str, **defaults: str) -> str:
    fields: list[dict[str, str]] = [{"name": name, "type": "string"} for name in names]
    fields += [{"name": name, "type": "string", "default": default} for name, default in defaults.items()]
    return orjson.dumps({"type": "record", "name": "Thing", "fields": fields}).decode()


A, AB, C = text_of("a"), text_of("a", b=""), text_of("c")


class Registry:
    """A state, and decisions applied to it as if the topic had been read back."""

    def __init__(self) -> None:
        self.state = State()
        self.written: list[tuple[Key, Any]] = []

    def does(self, decision: Decision[Any]) -> Any:
        for change in decision.changes:
            self.written.append(change)
            apply(self.state, change)
        return decision.answer

    def register(self, subject: str, schema: str, *references: Reference) -> Entry:
        entry: Entry = self.does(rules.register(self.state, subject, Asked(schema, references=references)))
        return entry


@pytest.fixture
def registry() -> Registry:
    return Registry()


def refused(code: int, act: Callable[[], object], sentence: str = "^.") -> None:
    with pytest.raises(RefusedError, match=sentence) as error:
        act()
    assert error.value.code == code


# --- registering ------------------------------------------------------------------------------------------------------


def test_versions_count_in_a_subject_and_ids_in_all(registry: Registry) -> None:
    entries = [registry.register(*asked) for asked in (("s", A), ("s", AB), ("t", AB), ("t", AB))]
    assert [(entry.subject, entry.version, entry.id) for entry in entries] == [
        ("s", 1, 1),
        ("s", 2, 2),
        ("t", 1, 2),
        ("t", 1, 2),
    ]
    assert len(registry.written) == 3  # the last one was there


@pytest.mark.parametrize(
    ("level", "accepted"),
    [("NONE", True), ("BACKWARD", False), ("FORWARD", False), ("FULL_TRANSITIVE", False)],
)
def test_the_level_decides_what_may_follow(registry: Registry, level: str, accepted: bool) -> None:
    registry.register("s", A)
    registry.does(rules.set_level(registry.state, "s", level))
    if accepted:
        assert registry.register("s", C).version == 2
    else:
        refused(409, lambda: registry.register("s", C), f"version 1: .*level|level {level}.*version 1")


def test_the_reason_names_the_version_and_the_place(registry: Registry) -> None:
    registry.register("s", A)
    refused(409, lambda: registry.register("s", C), r"version 1: the new one cannot read what it wrote: \$\.c: ")


def test_only_the_last_version_counts_unless_transitive(registry: Registry) -> None:
    registry.register("s", A)
    registry.does(rules.set_level(registry.state, None, "NONE"))
    registry.register("s", C)
    registry.does(rules.set_level(registry.state, None, "BACKWARD"))
    follows_c = text_of("c", d="")
    assert rules.compatible(registry.state, "s", Asked(follows_c), None) == []
    assert rules.compatible(registry.state, "s", Asked(follows_c), "latest") == []
    assert rules.compatible(registry.state, "s", Asked(follows_c), "1") != []
    registry.does(rules.set_level(registry.state, "s", "BACKWARD_TRANSITIVE"))
    refused(409, lambda: registry.register("s", follows_c), "version 1")
    assert rules.compatible(registry.state, "nothing", Asked(C), None) == []
    assert rules.compatible(registry.state, "nothing", Asked(C), "latest") == []
    refused(40402, lambda: rules.compatible(registry.state, "s", Asked(C), "9"))
    refused(42202, lambda: rules.compatible(registry.state, "s", Asked(C), "x"))


@pytest.mark.parametrize(
    ("subject", "asked", "code"),
    [
        ("s", Asked("{"), 42201),
        ("s", Asked('"unheard"'), 42201),
        ("s", Asked(A, schemaType="JSON"), 42201),
        ("s", Asked('"Thing"', references=(Reference("Thing", "gone", 1),)), 42201),
        ("s", Asked(" " * (1 << 20) + A), 42209),
        ("", Asked(A), 42208),
        ("a\nb", Asked(A), 42208),
        ("s" * 1001, Asked(A), 42208),
    ],
)
def test_what_is_not_registered(registry: Registry, subject: str, asked: Asked, code: int) -> None:
    refused(code, lambda: rules.register(registry.state, subject, asked))


def test_a_registry_that_is_full_takes_no_more(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "ENTRIES_MAX", 1)
    registry.register("s", A)
    refused(42205, lambda: registry.register("s", AB), "1 versions already")
    assert registry.register("s", A).version == 1


def test_another_registrys_mode_is_kept_to(registry: Registry) -> None:
    registry.register("s", A)
    apply(registry.state, (Key("MODE"), {"mode": "READONLY"}))
    for act in (
        lambda: registry.register("s", AB),
        lambda: rules.delete_version(registry.state, "s", "1", permanent=False),
        lambda: rules.delete_subject(registry.state, "s", permanent=False),
    ):
        refused(42205, act, "mode READONLY")


def test_a_level_of_the_future_stops_writes_and_not_reads(registry: Registry) -> None:
    registry.register("s", A)
    apply(registry.state, (Key("CONFIG", "s"), {"compatibilityLevel": "SIDEWAYS"}))
    refused(42205, lambda: registry.register("s", AB), "SIDEWAYS")
    assert registry.state.newest("s") is not None


# --- references -------------------------------------------------------------------------------------------------------


def test_a_schema_may_name_what_another_subject_defines(registry: Registry) -> None:
    registry.register("thing", A)
    to_thing = Reference("Thing", "thing", 1)
    refused(42201, lambda: registry.register("list", '{"type": "array", "items": "Thing"}'), "Thing")
    entry = registry.register("list", '{"type": "array", "items": "Thing"}', to_thing)
    assert registry.register("list", '{"type": "array", "items": "Thing"}', to_thing) == entry
    assert entry.references == (to_thing,)
    assert [one.subject for one in registry.state.referring("thing", 1)] == ["list"]
    refused(42206, lambda: rules.delete_version(registry.state, "thing", "1", permanent=False), "version 1 of list")
    refused(42206, lambda: rules.delete_subject(registry.state, "thing", permanent=False))
    # The level is checked on what is written out.
    refused(409, lambda: registry.register("list", '{"type": "array", "items": "long"}'), r"version 1")


# --- deleting ---------------------------------------------------------------------------------------------------------


def test_a_version_is_deleted_softly_and_then_for_good(registry: Registry) -> None:
    registry.register("s", A)
    registry.register("s", AB)
    refused(40407, lambda: rules.delete_version(registry.state, "s", "2", permanent=True))
    assert registry.does(rules.delete_version(registry.state, "s", "latest", permanent=False)) == 2
    assert [entry.version for entry in registry.state.versions("s")] == [1]
    assert registry.state.by_id(2) != []  # what was written with it can still be read
    refused(40406, lambda: rules.delete_version(registry.state, "s", "2", permanent=False))
    assert registry.does(rules.delete_version(registry.state, "s", "2", permanent=True)) == 2
    assert registry.state.by_id(2) == []
    refused(40402, lambda: rules.delete_version(registry.state, "s", "2", permanent=True))
    refused(40401, lambda: rules.delete_version(registry.state, "t", "1", permanent=False))
    refused(42202, lambda: rules.delete_version(registry.state, "s", "0", permanent=False))


def test_a_subject_is_deleted_softly_and_then_for_good_with_its_settings(registry: Registry) -> None:
    registry.register("s", A)
    registry.register("s", AB)
    registry.does(rules.set_level(registry.state, "s", "FULL"))
    refused(40405, lambda: rules.delete_subject(registry.state, "s", permanent=True))
    assert registry.does(rules.delete_subject(registry.state, "s", permanent=False)) == [1, 2]
    assert registry.written[-1] == (Key("DELETE_SUBJECT", "s"), {"subject": "s", "version": 2})
    refused(40404, lambda: rules.delete_subject(registry.state, "s", permanent=False))
    refused(40401, lambda: rules.look_up(registry.state, "s", Asked(A), deleted=False))
    assert rules.look_up(registry.state, "s", Asked(A), deleted=True).version == 1
    assert registry.does(rules.delete_subject(registry.state, "s", permanent=True)) == [1, 2]
    assert registry.state.configs == {}
    refused(40401, lambda: rules.delete_subject(registry.state, "s", permanent=True))


def test_what_was_deleted_softly_comes_back_as_the_next_version_with_its_id(registry: Registry) -> None:
    registry.register("s", A)
    registry.does(rules.delete_subject(registry.state, "s", permanent=False))
    assert (registry.register("s", A).version, registry.register("s", A).id) == (2, 1)


def test_an_id_is_not_given_again_when_its_schema_is_gone(registry: Registry) -> None:
    registry.register("s", A)
    registry.does(rules.delete_subject(registry.state, "s", permanent=False))
    registry.does(rules.delete_subject(registry.state, "s", permanent=True))
    compacted = State()
    latest = {encode_key(key): (key, value) for key, value in registry.written}
    for key, value in latest.values():
        if encode_value(value) is not None:  # compaction forgets what was removed
            apply(compacted, (key, value))
    assert rules.register(compacted, "t", Asked(C)).answer.id == 2


# --- levels, look-ups -------------------------------------------------------------------------------------------------


def test_levels_are_set_and_cleared_beside_other_settings(registry: Registry) -> None:
    apply(registry.state, (Key("CONFIG", "s"), {"subject": "s", "normalize": True}))
    assert registry.does(rules.set_level(registry.state, "s", "FULL")) == "FULL"
    assert registry.state.configs["s"] == {"subject": "s", "normalize": True, "compatibilityLevel": "FULL"}
    refused(42203, lambda: rules.set_level(registry.state, None, "SIDEWAYS"), "one of NONE, BACKWARD")
    assert registry.does(rules.clear_level(registry.state, "s")) == "FULL"
    assert registry.state.level("s") == "BACKWARD"
    refused(40401, lambda: rules.clear_level(registry.state, "s"))
    assert registry.does(rules.clear_level(registry.state, None)) == "BACKWARD"


def test_looking_up(registry: Registry) -> None:
    registry.register("s", A)
    assert rules.look_up(registry.state, "s", Asked(A), deleted=False).id == 1
    refused(40403, lambda: rules.look_up(registry.state, "s", Asked(C), deleted=False))
    refused(40401, lambda: rules.look_up(registry.state, "t", Asked(A), deleted=False))
    refused(42201, lambda: rules.look_up(registry.state, "s", Asked("{"), deleted=False))


@pytest.mark.parametrize("given", ["0", "-2", "x", "", "1.0", "２", str(1 << 31), "9" * 50])
def test_what_is_no_version_number(given: str) -> None:
    refused(42202, lambda: rules.version_number(given))
