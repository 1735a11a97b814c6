"""The catalog as one HTML page: no network, light and dark, printable, usable by keyboard and screen reader.

Whatever a schema says is text on the page, never markup. This file decides nothing about what is in the catalog.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any

import orjson

from schemas.event_type import EventType
from streams.core.catalog import EVENT_HEADERS, WEBHOOK_HEADERS, Described

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
_STYLE = """
:root { color-scheme: light dark; --text: #1c2330; --back: #ffffff; --soft: #f2f4f8; --line: #c6ccd8; --link: #0b57b0; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e8f0; --back: #14181f; --soft: #1e242e; --line: #424b5a; --link: #8ab8ff; }
}
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
section { border-top: 1px solid var(--line); margin-top: 2rem; }
pre { background: var(--soft); border: 1px solid var(--line); overflow: auto; padding: .75rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
h1, h2, h3, p, li { overflow-wrap: anywhere; }
summary { cursor: pointer; padding: .25rem 0; }
input { background: var(--back); border: 1px solid var(--line); color: inherit; font: inherit; padding: .4rem;
  width: 100%; box-sizing: border-box; }
dt { font-family: ui-monospace, monospace; }
@media print { search, nav { display: none; } section { break-inside: auto; } }
"""
_SCRIPT = """
const box = document.getElementById('find'), said = document.getElementById('found');
const all = [...document.querySelectorAll('section[data-subject]')];
box.addEventListener('input', () => {
  const words = box.value.toLowerCase();
  for (const each of all) each.hidden = !each.textContent.toLowerCase().includes(words);
  said.textContent = all.filter(each => !each.hidden).length + ' of ' + all.length + ' subjects';
});
addEventListener('beforeprint', () => document.querySelectorAll('details').forEach(each => { each.open = true; }));
"""


def html(
    described: list[Described],
    *,
    title: str,
    version: str,
    events_topic: str,
    event_types: Sequence[EventType] = (),
) -> str:
    """The page, for a file of UTF-8."""
    groups = [(subject, list(group)) for subject, group in groupby(described, lambda each: each.schema.subject)]
    contents = "".join(f'<li><a href="#s{n}">{escape(subject)}</a></li>' for n, (subject, _) in enumerate(groups))
    sections = "".join(_section(n, subject, group) for n, (subject, group) in enumerate(groups))
    empty = "" if groups else "<p>The registry holds no schemas of events.</p>"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>Version {escape(version)}. Events come on the Kafka topic <code>{escape(events_topic)}</code>.</p>
</header>
<search>
<label for="find">Find in subjects, fields and descriptions</label>
<input id="find" type="search" autocomplete="off">
<p id="found" role="status">{len(groups)} of {len(groups)} subjects</p>
</search>
<nav aria-label="Subjects"><ul>{contents}</ul></nav>
<main>
{_types(event_types)}{empty}{sections}
<section>
<h2>Headers</h2>
<h3>Of every webhook</h3>
{_definitions(WEBHOOK_HEADERS)}
<h3>Of an event that is a record of its own</h3>
{_definitions(EVENT_HEADERS)}
</section>
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _section(number: int, subject: str, group: list[Described]) -> str:
    versions = "".join(_version(each, newest=each is group[-1]) for each in reversed(group))
    return f'<section id="s{number}" data-subject>\n<h2>{escape(subject)}</h2>\n{versions}</section>\n'


def _version(each: Described, *, newest: bool) -> str:
    schema = each.schema
    doc = f"<p>{escape(each.doc)}</p>" if each.doc else ""
    example = "" if each.example is None else f"<h3>Example</h3>\n{_pre(each.example)}"
    return (
        f"<details{' open' if newest else ''}>\n"
        f"<summary>Version {schema.version}: {escape(schema.name)}, schema id {schema.id}</summary>\n"
        f"{doc}{example}\n<h3>JSON Schema of the data</h3>\n{_pre(each.json_schema)}\n"
        f"<h3>Avro schema</h3>\n{_pre(each.avro)}\n</details>\n"
    )


def _pre(document: Any) -> str:
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
    return f'<pre tabindex="0">{escape(text)}</pre>'


def _definitions(known: dict[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(said)}</dd>" for name, said in known.items()) + "</dl>"


def _types(event_types: Sequence[EventType]) -> str:
    """The event types that are described, by group and name."""
    if not event_types:
        return ""
    ordered = sorted(event_types, key=lambda each: (each.group, each.name))
    groups = "".join(
        f"<h3>{escape(group or 'Others')}</h3><dl>{''.join(map(_described_type, members))}</dl>"
        for group, members in groupby(ordered, lambda each: each.group)
    )
    return f"<section><h2>Event types</h2>{groups}</section>"


def _described_type(each: EventType) -> str:
    deprecated = " (deprecated)" if each.deprecated else ""
    schema = f" Its data is <code>{escape(each.schema)}</code>." if each.schema else ""
    example = f"<pre>{escape(each.example)}</pre>" if each.example else ""
    return f"<dt>{escape(each.name)}{deprecated}</dt><dd>{escape(each.description)}{schema}{example}</dd>"
