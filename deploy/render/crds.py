"""Manifests held to the CustomResourceDefinitions of a cluster, without the cluster.

A server of Kubernetes drops what a schema does not know, in silence, and so would we: here it is a fault. Rules in
`x-kubernetes-validations`, which are programs, are not run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from ...proto.errors import InvalidRequest

Schema = Mapping[str, Any]
_OPEN = ("x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource")
_BITS = {"int32": 31, "int64": 63}
_TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_NAMES = {
    "name": {"type": "string"},
    "namespace": {"type": "string"},
    "labels": _TEXTS,
    "annotations": _TEXTS,
}
# Of every kind, whatever its schema says: a definition has no word of what is in `metadata`.
_ALWAYS: Mapping[str, Schema] = {
    "apiVersion": {"type": "string"},
    "kind": {"type": "string"},
    "metadata": {"type": "object", "required": ["name"], "properties": _NAMES, "additionalProperties": False},
}


def load_crds(paths: Iterable[Path]) -> dict[tuple[str, str], Schema]:
    """The schemas in files, by (`ray.io/v1`, `RayCluster`): YAML or JSON, one or several, or what `kubectl get` lists.

    JSON is read at once; of YAML, a megabyte takes some ten seconds.

    Raises:
        InvalidRequest: a file cannot be read, or has none.
    """
    found: dict[tuple[str, str], Schema] = {}
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
            documents = (
                [json.loads(text)] if text.lstrip().startswith("{") else list(yaml.safe_load_all(text))
            )
        except (OSError, ValueError, yaml.YAMLError) as e:
            raise InvalidRequest(f"{path} cannot be read as CustomResourceDefinitions: {e}") from None
        before = len(found)
        for crd in _crds(documents):
            spec = crd["spec"]
            for version in spec["versions"]:
                if "schema" in version:
                    key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                    found[key] = version["schema"]["openAPIV3Schema"]
        if len(found) == before:
            raise InvalidRequest(
                f"{path} has no CustomResourceDefinition: `kubectl get crd rayclusters.ray.io rayjobs.ray.io -o json` "
                "writes what is wanted"
            )
    return found


def check(manifests: Iterable[Mapping[str, Any]], crds: Mapping[tuple[str, str], Schema]) -> list[str]:
    """Hold the manifests that are no part of Kubernetes itself to their schemas. Returns what was checked.

    Raises:
        InvalidRequest: one does not fit, or there is no schema of it; the message names every fault.
    """
    from jsonschema import Draft202012Validator

    faults: list[str] = []
    checked: list[str] = []
    for manifest in manifests:
        version, kind = manifest["apiVersion"], manifest["kind"]
        if "." not in version.partition("/")[0]:  # v1, apps/v1, policy/v1
            continue
        schema = crds.get((version, kind))
        if schema is None:
            known = ", ".join(" ".join(key) for key in sorted(crds))
            faults.append(f"{kind}: no schema of {version}; there are {known}")
            continue
        errors: Any = Draft202012Validator(strict(schema, root=True)).iter_errors(manifest)  # pyright: ignore[reportUnknownMemberType]
        faults += [f"{kind}: {error.json_path}: {error.message}"[:400] for error in errors]
        faults += [f"{kind}: {fault}" for fault in _repeated(schema, manifest, "$")]
        checked.append(kind)
    if faults:
        raise InvalidRequest("not as the CustomResourceDefinitions have it:\n  " + "\n  ".join(faults))
    return checked


def strict(schema: Schema, *, root: bool = False) -> dict[str, Any]:
    """A schema of a CRD as JSON schema: with what Kubernetes means by its own words, and unknown keys refused."""
    made = {
        k: v
        for k, v in schema.items()
        if not k.startswith("x-kubernetes-") and k not in ("nullable", "format")
    }
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    elif schema.get("nullable") and isinstance(schema.get("type"), str):
        made["type"] = [schema["type"], "null"]
    if bits := _BITS.get(schema.get("format", "")):
        made = {"minimum": -(2**bits), "maximum": 2**bits - 1} | made
    if schema.get("x-kubernetes-list-type") == "set":
        made["uniqueItems"] = True
    properties = cast("dict[str, Schema]", schema.get("properties") or {})
    if properties:
        made["properties"] = {name: strict(one) for name, one in properties.items()}
        if root:
            made["properties"] = {**made["properties"], **_ALWAYS}
    is_open = any(schema.get(word) for word in _OPEN) or "additionalProperties" in schema
    if not is_open and (properties or schema.get("type") == "object"):
        made["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            made[key] = strict(schema[key])
    return made


def _repeated(schema: Schema, value: Any, path: str) -> Iterator[str]:
    """Entries of a list that is a map which have the same key: JSON schema has no word for that."""
    if isinstance(value, dict):
        properties = cast("dict[str, Schema]", schema.get("properties") or {})
        for name, one in cast("dict[str, Any]", value).items():
            if name in properties:
                yield from _repeated(properties[name], one, f"{path}.{name}")
    elif isinstance(value, list):
        items = cast(Schema, schema.get("items") or {})
        keys: list[str] = schema.get("x-kubernetes-list-map-keys") or []
        usual = {k: one["default"] for k, one in items.get("properties", {}).items() if "default" in one}
        seen: list[list[Any]] = []
        for k, one in enumerate(cast("list[Any]", value)):
            yield from _repeated(items, one, f"{path}[{k}]")
            if keys and isinstance(one, dict):
                entry = usual | cast("dict[str, Any]", one)
                key = [entry.get(name) for name in keys]
                if key in seen:
                    shown = ", ".join(f"{name} {of!r}" for name, of in zip(keys, key, strict=True))
                    yield f"{path}[{k}]: {shown} is there already"
                seen.append(key)


def _crds(documents: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for document in documents:
        if not isinstance(document, dict):
            continue
        value = cast("dict[str, Any]", document)
        if value.get("kind") == "CustomResourceDefinition":
            yield value
        elif isinstance(value.get("items"), list):
            yield from _crds(value["items"])
