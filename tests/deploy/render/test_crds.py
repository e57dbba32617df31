"""Manifests held to CustomResourceDefinitions, as a user has them from the own cluster."""

import copy
import json

import pytest
import yaml
from rendered import CRDS, rendered

from rowloom.deploy.render.crds import check, load_crds, strict
from rowloom.proto.errors import InvalidRequest


def manifests() -> list[dict]:
    return copy.deepcopy([one for found in rendered().manifests.values() for one in found])


@pytest.fixture(scope="module")
def crds():
    return load_crds([CRDS])


def spec_of(found: list[dict], kind: str) -> dict:
    return next(one for one in found if one["kind"] == kind)["spec"]


def test_what_fits_passes_and_is_named(crds):
    assert check(manifests(), crds) == ["RayCluster", "RayJob"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda spec: spec.update(headGroupSpecs=1),
            r"RayCluster: \$.spec: .*'headGroupSpecs' was unexpected",
        ),
        (lambda spec: spec.pop("headGroupSpec"), "'headGroupSpec' is a required property"),
        (
            lambda spec: spec["workerGroupSpecs"][0].update(replicas="3"),
            r"workerGroupSpecs\[0\].replicas: '3' is not",
        ),
        (
            lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
            "0 is not of type 'string'",
        ),
        (lambda spec: spec["authOptions"].update(mode="tokens"), "'tokens' is not one of"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(crds, spoil, words):
    found = manifests()
    spoil(spec_of(found, "RayCluster"))
    with pytest.raises(InvalidRequest, match=words):
        check(found, crds)


def test_a_kind_without_a_schema_is_not_taken_for_checked(crds):
    without = {key: schema for key, schema in crds.items() if key[1] != "RayJob"}
    with pytest.raises(
        InvalidRequest, match=r"RayJob: no schema of ray.io/v1; there are .*ray.io/v1 RayCluster"
    ):
        check(manifests(), without)


def test_a_list_and_json_are_read_as_kubectl_writes_them(tmp_path, crds):
    documents = list(yaml.safe_load_all(CRDS.read_text()))
    (tmp_path / "list.json").write_text(json.dumps({"kind": "List", "items": documents}))
    (tmp_path / "list.yaml").write_text(yaml.safe_dump({"kind": "List", "items": documents}))
    assert load_crds([tmp_path / "list.json"]) == load_crds([tmp_path / "list.yaml"]) == crds


@pytest.mark.parametrize("text", ["kind: Pod\n", "{", "a: [", ""])
def test_a_file_without_definitions_is_refused(tmp_path, text):
    (tmp_path / "x").write_text(text)
    with pytest.raises(InvalidRequest, match="CustomResourceDefinition"):
        load_crds([tmp_path / "x"])
    with pytest.raises(InvalidRequest, match="cannot be read"):
        load_crds([tmp_path / "none"])


def test_kubernetes_own_words_are_understood():
    made = strict({"properties": {"a": {"x-kubernetes-int-or-string": True, "anyOf": []}}, "type": "object"})
    assert made["properties"]["a"] == {"type": ["integer", "string"]}
    assert made["additionalProperties"] is False
    assert strict({"type": "string", "nullable": True}) == {"type": ["string", "null"]}
    left_open = {"type": "object", "properties": {"a": {}}, "x-kubernetes-preserve-unknown-fields": True}
    assert "additionalProperties" not in strict(left_open)
    inside = strict({"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {}}}})
    assert inside["additionalProperties"]["additionalProperties"] is False
