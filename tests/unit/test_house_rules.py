"""The rules of the house that no linter knows, each run on the tree and on a text that breaks it."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLOCK = "connectors/clock.py"
WAITING = "tests/helpers.py"
READS_CLOCK = {
    *("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
    *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"),
}
SLEEPS = {"asyncio.sleep", "time.sleep"}
# Dots in brackets: so this file does not name them either.
HOSTS = re.compile(r"pypi[.]org|pythonhosted[.]org|maven[.]org|maven[.]apache[.]org|npmjs[.]com")
MACHINE_PATHS = re.compile(r"(?<![\w./])/(?:root|work|Users|home)/\w")
#: Of names: a secret, or what somebody shows to prove that they have it.
SECRET_NAMES = re.compile(r"(^|_)(secret|token|signature|mac|digest|hexdigest|hash|hashed|password|credential)$")
#: Where keys, tokens and signatures are checked.
CHECKS = [
    "connectors/api/key_check.py",
    "connectors/api/principal.py",
    "connectors/api/receiving.py",
    "connectors/api/who.py",
    "connectors/key_desk.py",
    "connectors/registry_rest.py",
    "schemas/api_key.py",
    "schemas/portal.py",
    "schemas/signed_request.py",
]


def tracked(pattern: str = "*") -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", pattern], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reads_clock_or_dice(source: str) -> bool:
    """Time and randomness are arguments; `connectors/clock.py` alone reads them."""
    tree = ast.parse(source)
    names = {name for name, _ in calls(tree)} | set(imports(tree))
    return bool(names & READS_CLOCK) or any(name.split(".")[0] == "random" for name in names)


def lacks_docstring(source: str) -> bool:
    """Every module says what it holds."""
    return ast.get_docstring(ast.parse(source)) is None


def sleeps(source: str) -> bool:
    """Tests wait for conditions, never for time to pass; `asyncio.sleep(0)` only lets others run."""
    tree = ast.parse(source)
    if {"time.sleep", "asyncio.sleep"} & set(imports(tree)):
        return True
    return any(name in SLEEPS and [ast.unparse(each) for each in call.args] != ["0"] for name, call in calls(tree))


def names_a_registry_or_this_machine(text: str) -> bool:
    """Where packages come from is the user's to say; a path of one machine means nothing on another."""
    return bool(HOSTS.search(text) or MACHINE_PATHS.search(text))


def compares_secrets(source: str) -> bool:
    """What is secret, or proves something, is compared by `hmac.compare_digest`: `==` tells by its time how much of it
    was right. Named so is what ends with one of the words."""
    return any(
        isinstance(operator, ast.Eq | ast.NotEq | ast.In) and any(map(is_secret, [*parts(left), *parts(right)]))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False)
    )


def parts(node: ast.expr) -> list[ast.expr]:
    """What stands in a tuple or list, or the node itself."""
    return node.elts if isinstance(node, ast.Tuple | ast.List) else [node]


def is_secret(node: ast.expr) -> bool:
    """Whether it is named for a secret: a name, an attribute, or what such a function returns."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return bool(SECRET_NAMES.search(name))


def pins_without_hash(constraints: str) -> list[str]:
    """Every entry is `name==version` with at least one sha256."""
    entries = constraints.replace("\\\n", " ").splitlines()
    pinned = re.compile(r"^[a-z0-9.-]+==\S+ (; .+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*$")
    return [entry.split()[0] for entry in entries if not pinned.match(entry)]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[>=]", each)[0] for each in requirements}


def pins(name: str) -> dict[str, str]:
    """Version by name. Markers differ where what only the tests need asks for more platforms."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split()[0].split("==", 1) for line in lines if re.match(r"[a-z]", line))


def breaking(rule: Callable[[str], bool], names: list[str]) -> list[str]:
    assert names
    return [name for name in names if rule((ROOT / name).read_text(encoding="utf-8", errors="ignore"))]


def product() -> list[str]:
    return [*tracked("connectors/*.py"), *tracked("schemas/*.py"), *tracked("streams/*.py")]


def test_time_and_randomness_are_read_in_one_file() -> None:
    assert breaking(reads_clock_or_dice, product()) == [CLOCK]


def test_every_module_has_a_docstring() -> None:
    assert breaking(lacks_docstring, tracked("*.py")) == []


def test_tests_do_not_sleep() -> None:
    assert breaking(sleeps, tracked("tests/*.py")) == [WAITING]


def test_no_file_names_a_registry_or_a_path_of_this_machine() -> None:
    assert breaking(names_a_registry_or_this_machine, tracked()) == []


def test_secrets_are_compared_in_constant_time() -> None:
    assert breaking(compares_secrets, CHECKS) == []
    assert all("compare_digest" in (ROOT / name).read_text() for name in CHECKS if name.startswith("schemas/"))


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-runtime.txt"])
def test_every_pin_has_its_hashes(name: str) -> None:
    constraints = (ROOT / name).read_text()
    assert pins_without_hash(constraints) == []
    assert "://" not in constraints


def test_what_pyproject_asks_for_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    runtime = names([*project["dependencies"], *extras["build"]])
    assert runtime <= pins("constraints-runtime.txt").keys()
    assert runtime | names([*extras["kafka"], *extras["dev"]]) <= pins("constraints.txt").keys() | {"distributary"}


def test_both_locks_agree() -> None:
    everything, runtime = pins("constraints.txt"), pins("constraints-runtime.txt")
    assert runtime == {name: everything[name] for name in runtime}
    assert "pytest" in everything
    assert "pytest" not in runtime


@pytest.mark.parametrize(
    ("rule", "broken", "kept"),
    [
        (reads_clock_or_dice, "import time\nx = time.time()", "import time\nx = time.monotonic()"),
        (reads_clock_or_dice, "from time import time", "from time import monotonic"),
        (reads_clock_or_dice, "import datetime\ndatetime.datetime.now()", "import datetime\ndatetime.UTC"),
        (reads_clock_or_dice, "from random import uniform", "from secrets import token_bytes"),
        (lacks_docstring, "x = 1", '"""What it holds."""'),
        (sleeps, "import time\ntime.sleep(1)", "import time\ntime.monotonic()"),
        (sleeps, "import asyncio\nasyncio.sleep(delay)", "import asyncio\nasyncio.sleep(0)"),
        (sleeps, "from asyncio import sleep", "from asyncio import timeout"),
        (names_a_registry_or_this_machine, "--index-url " + "py" + "pi.org/simple", "--require-hashes"),
        (names_a_registry_or_this_machine, "open('/" + "root/x')", "open('/path/to/x')"),
        (compares_secrets, "key.hash == given", "hmac.compare_digest(key.hash, given)"),
        (compares_secrets, "if known != the_token: pass", "if len(known) != LENGTH: pass"),
        (compares_secrets, "mac.hexdigest() == given", "digest is None"),
        (compares_secrets, "given in (a.secret, b)", "given in secrets_by_id"),
        (
            pins_without_hash,
            "a==1 \\\n    --hash=md5:00\n",
            f"a-b==1.0 ; x \\\n    --hash=sha256:{'0' * 64}\n",
        ),
    ],
)
def test_each_rule_can_be_broken(rule: Callable[[str], object], broken: str, kept: str) -> None:
    assert rule(broken)
    assert not rule(kept)
