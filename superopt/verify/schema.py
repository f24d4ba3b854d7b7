"""Holds a certificate against its JSON schema, ``certificate.schema.json``."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from superopt.errors import CertificateCorrupt

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}

KNOWN = frozenset(
    {
        "$schema",
        "$id",
        "$defs",
        "$ref",
        "title",
        "description",
        "type",
        "const",
        "enum",
        "minimum",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "anyOf",
        "minItems",
        "maxItems",
    }
)
"""The words of JSON Schema (draft 2020-12) that are read here; the schema uses no other."""


@functools.cache
def schema() -> dict[str, Any]:
    """The schema of the newest certificates."""
    path = Path(__file__).with_name("certificate.schema.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def validate(certificate: Any) -> None:
    """Raises CertificateCorrupt, which names the place, unless the certificate is as the schema says."""
    if faults := list(_faults(certificate, schema(), "")):
        raise CertificateCorrupt(what=faults[0], where="certificate")


def _faults(value: Any, rule: Any, at: str) -> list[str]:
    """What of a value is not as a rule says, each with its place."""
    if "$ref" in rule:
        rule = {**schema()["$defs"][rule["$ref"].rpartition("/")[2]], **rule}
    where = at or "the certificate"
    if "type" in rule:
        names = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
        if not any(_is(value, name) for name in names):
            return [f"{where} is no {' or '.join(names)}"]
    if "const" in rule and value != rule["const"]:
        return [f"{where} is not {rule['const']!r}"]
    if "enum" in rule and value not in rule["enum"]:
        return [f"{where} is none of {', '.join(map(str, rule['enum']))}"]
    if "minimum" in rule and isinstance(value, int | float) and value < rule["minimum"]:
        return [f"{where} is below {rule['minimum']}"]
    out: list[str] = []
    if "anyOf" in rule:
        tried = [_faults(value, r, at) for r in rule["anyOf"]]
        out += [] if [] in tried else tried[-1]
    if isinstance(value, dict):
        out += [f"{where} lacks {k!r}" for k in rule.get("required", ()) if k not in value]
        known, more = rule.get("properties", {}), rule.get("additionalProperties", True)
        for key, item in value.items():
            place = f"{at}.{key}" if at else str(key)
            if key in known:
                out += _faults(item, known[key], place)
            elif more is False:
                out.append(f"{where} has {key!r}, which nothing is said of")
            elif isinstance(more, dict):
                out += _faults(item, more, place)
    if isinstance(value, list):
        if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
            out.append(f"{where} has {len(value)} items")
        for k, item in enumerate(value if "items" in rule else ()):
            out += _faults(item, rule["items"], f"{where}[{k}]")
    return out


def _is(value: Any, name: str) -> bool:
    """Whether a value is of a type of JSON; True is no number there."""
    if isinstance(value, bool) and name != "boolean":
        return False
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])
