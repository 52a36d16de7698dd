"""An example value for a JSON schema, as a model under Structured Outputs returns one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Schema: TypeAlias = Mapping[str, Any]

_SHALLOW: Final = 6  # deeper than this, optional parts are left out, so that recursive schemas end
_DEEPEST: Final = 60
_FORMATS: Final[Mapping[str, str]] = {
    "date-time": "2024-01-02T03:04:05Z",
    "date": "2024-01-02",
    "time": "03:04:05Z",
    "duration": "P1D",
    "email": "user@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def example(schema: Schema, word: str) -> Any:
    """A value that is valid for `schema`; `word` appears in its free strings.

    Knows types, `properties`, `items`, `prefixItems`, `enum`, `const`, `$ref`, `anyOf`,
    `oneOf`, `allOf`, `format` and the bounds of numbers, strings and arrays; not
    `pattern` and `uniqueItems`.
    """
    return _Sampler(schema, word).value(schema, 0)


@dataclass(frozen=True, slots=True)
class _Sampler:
    root: Schema
    word: str

    def value(self, schema: Schema, depth: int) -> Any:
        if depth > _DEEPEST:
            return None
        if fixed := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
            return fixed[0]
        if (other := self._instead(schema, depth)) is not None:
            return self.value(other, depth + 1)
        kind = _type(schema)
        if kind == "object":
            properties: Mapping[str, Schema] = schema.get("properties", {})
            return {name: self.value(part, depth + 1) for name, part in properties.items()}
        return self._array(schema, depth) if kind == "array" else self._scalar(schema, kind)

    def _instead(self, schema: Schema, depth: int) -> Schema | None:
        """The schema that this one only refers to, chooses or combines."""
        if "$ref" in schema:
            return self._target(schema["$ref"])
        if options := schema.get("anyOf") or schema.get("oneOf"):
            return self._choose(options, depth)
        parts = schema.get("allOf")
        return self._merge(schema, parts) if parts else None

    def _scalar(self, schema: Schema, kind: str) -> str | float | bool | None:
        match kind:
            case "string":
                return _string(schema, self.word)
            case "integer":
                return _integer(schema)
            case "number":
                return _number(schema)
            case _:
                return True if kind == "boolean" else None

    def _target(self, reference: str) -> Schema:
        """What a local JSON pointer such as `#/$defs/Name` points at."""
        found: Any = self.root
        for part in reference.removeprefix("#").split("/")[1:]:
            found = found[part.replace("~1", "/").replace("~0", "~")]
        schema: Schema = found
        return schema

    def _choose(self, options: list[Schema], depth: int) -> Schema:
        nulls = [option for option in options if option.get("type") == "null"]
        others = [option for option in options if option.get("type") != "null"]
        preferred = nulls + others if depth > _SHALLOW else others + nulls
        return preferred[0]

    def _merge(self, schema: Schema, parts: list[Schema]) -> Schema:
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in parts:
            found = self._target(part["$ref"]) if "$ref" in part else part
            properties = {**merged.get("properties", {}), **found.get("properties", {})}
            merged.update(found)
            if properties:
                merged["properties"] = properties
        return merged

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        first: list[Schema] = schema.get("prefixItems", [])
        wanted = max(schema.get("minItems", 0), 0 if depth > _SHALLOW else 1)
        count = min(wanted, schema.get("maxItems", wanted)) - len(first)
        items = schema.get("items")
        rest = [items] * max(count, 0) if isinstance(items, Mapping) else []
        return [self.value(part, depth + 1) for part in (*first, *rest)]


def _type(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return next((str(name) for name in kind if name != "null"), "null")
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema else "string"


def _string(schema: Schema, word: str) -> str:
    if known := _FORMATS.get(schema.get("format", "")):
        return known
    return word.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]


def _integer(schema: Schema) -> int:
    low = _bound(
        schema, "minimum", math.ceil, "exclusiveMinimum", lambda bound: math.floor(bound) + 1
    )
    high = _bound(
        schema, "maximum", math.floor, "exclusiveMaximum", lambda bound: math.ceil(bound) - 1
    )
    value = 1 if low is None else max(1, low)
    value = value if high is None else min(value, high)
    step = schema.get("multipleOf", 1)
    up = math.ceil(value / step) * step
    return int(up if high is None or up <= high else math.floor(value / step) * step)


def _bound(schema: Schema, closed: str, to_closed: Any, opened: str, to_opened: Any) -> int | None:
    if closed in schema:
        return int(to_closed(schema[closed]))
    return int(to_opened(schema[opened])) if opened in schema else None


def _number(schema: Schema) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None and high is None:
        return 1.5
    if low is None:
        return float(high - 1)
    return float(low + 1) if high is None else (low + high) / 2
