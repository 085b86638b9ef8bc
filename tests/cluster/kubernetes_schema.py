"""Checking a Kubernetes manifest against a custom resource's schema, as strictly as `kubectl --validate=strict`."""

import gzip
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import jsonschema
import yaml

SCHEMAS = Path(__file__).parents[1] / "data" / "kuberay"


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice} twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read(manifest: Path) -> dict[str, Any]:
    """One manifest from a file."""
    return yaml.load(manifest.read_text(), Loader=_UniqueKeys)


def schema(resource: str) -> dict[str, Any]:
    """The schema of `rayclusters` or `rayjobs`, in which whatever it does not declare is an error.

    A custom resource's schema leaves the metadata of the object itself to Kubernetes; here it is that of a pod
    template, which the schema spells out. Its rules in CEL are not evaluated.
    """
    tree = json.loads(gzip.decompress((SCHEMAS / f"{resource}.v1.json.gz").read_bytes()))
    spec = tree["properties"]["spec"]["properties"]
    cluster = spec["rayClusterSpec"]["properties"] if resource == "rayjobs" else spec
    pod = cluster["headGroupSpec"]["properties"]["template"]["properties"]
    tree["properties"]["metadata"] = pod["metadata"]
    return _closed(tree)


def errors(manifest: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """What is wrong, each as `place: reason`; empty when nothing is."""
    found = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in found]


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    schema = dict(schema)
    for several in ("anyOf", "allOf", "oneOf"):
        if several in schema:
            schema[several] = [_closed(one) for one in schema[several]]
    if "items" in schema:
        schema["items"] = _closed(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = _closed(schema["additionalProperties"])
    if "properties" in schema:
        schema["properties"] = {key: _closed(each) for key, each in schema["properties"].items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if schema.get("type") == "object" and not is_open:
        schema.setdefault("additionalProperties", False)
    return schema
