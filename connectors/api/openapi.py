"""The OpenAPI 3.1 document, made from the same routes and types that requests are validated with.

Pure: it takes routes and returns a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from connectors.api import problems
from connectors.api.problems import Problem
from connectors.api.routes import JSON, Answer, Header, Route

VERSION = "1"
_REF = "#/components/schemas/{name}"
_KEY = "key"


def openapi(routes: Sequence[Route], *, title: str = "Distributary") -> dict[str, Any]:
    """The document of these routes."""
    kinds = _types(routes)
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    by_type = dict(zip(map(id, kinds), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{title} HTTP API",
            "version": VERSION,
            "description": "Every answer that is no success is a problem document (RFC 9457).",
        },
        "paths": paths,
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "components": {
            "schemas": components,
            "securitySchemes": {_KEY: {"type": "http", "scheme": "bearer", "description": "An API key"}},
        },
    }


def _types(routes: Sequence[Route]) -> list[Any]:
    """Each type that stands in the document, once."""
    found: dict[int, Any] = {id(Problem): Problem}
    for route in routes:
        for kind in (route.body, *(answer.type for answer in route.answers.values())):
            if kind is not None:
                found.setdefault(id(kind), kind)
    return list(found.values())


def _operation(route: Route, schemas: dict[int, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"operationId": route.name, "summary": route.summary, "tags": [route.tag]}
    notes = [route.description] if route.description else []
    if route.scope is not None:
        notes.append(f"Needs the scope `{route.scope}`.")
        said["security"] = [{_KEY: []}]
    if notes:
        said["description"] = " ".join(notes)
    if parameters := _parameters(route):
        said["parameters"] = parameters
    if route.takes_body:
        schema = schemas[id(route.body)] if route.body is not None else {}
        said["requestBody"] = {
            "required": route.body is not None,
            "content": {media: {"schema": schema} for media in route.media},
        }
    answers = {str(status): _answer(answer, schemas) for status, answer in sorted(route.answers.items())}
    problem = {"schema": schemas[id(Problem)]}
    for status in route.problem_statuses():
        answers.setdefault(
            str(status), {"description": problems.title(status), "content": {problems.MEDIA_TYPE: problem}}
        )
    return said | {"responses": answers}


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in route.path_names:
        pattern = f"^(?:{route.pattern(name).pattern})$"
        schema: dict[str, Any] = {"type": "string", "pattern": pattern}
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    if route.query is not None:
        (_,), components = msgspec.json.schema_components([route.query], ref_template=_REF)
        properties = components[route.query.__name__]["properties"]
        for name, schema in properties.items():
            said = {key: value for key, value in schema.items() if key != "description"}
            found.append({"name": name, "in": "query", "description": schema.get("description", ""), "schema": said})
    found += [{"name": each.name, "in": "header", "required": each.required} | _header(each) for each in route.headers]
    return found


def _header(header: Header) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if header.pattern:
        schema["pattern"] = header.pattern
    return {"description": header.description, "schema": schema}


def _answer(answer: Answer, schemas: dict[int, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        said["headers"] = {each.name: _header(each) for each in answer.headers}
    if answer.type is not None:
        said["content"] = {answer.media: {"schema": schemas[id(answer.type)]}}
    elif answer.media != JSON:
        said["content"] = {answer.media: {"schema": {"type": "string"}}}
    return said
