"""Each field that manifests of KubeRay's kinds have is one of the definitions', and no misspelt one passes."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from rendered import CRDS, EVERYTHING, head, rendered

from rowloom.deploy.render.crds import check, load_crds
from rowloom.proto.errors import InvalidRequest

Place = tuple[str | int, ...]
CRD_FILE = load_crds([CRDS])
# The two pods are of one kind: what the one has and the other has not is no fault.
PODS = (("headGroupSpec", "template"), ("workerGroupSpecs", "[]", "template"))


def of_kuberay() -> Iterator[dict[str, Any]]:
    for what in EVERYTHING:
        for found in rendered(**what).manifests.values():
            yield from (one for one in found if (one["apiVersion"], one["kind"]) in CRD_FILE)


def known(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all fields that a schema names."""
    for name, one in schema.get("properties", {}).items():
        yield (*path, name)
        yield from known(one, (*path, name))
    if "items" in schema:
        yield from known(schema["items"], (*path, "[]"))


def written(schema: dict[str, Any], value: Any, at: Place = ()) -> Iterator[Place]:
    """Places of all fields of a value that its schema names; keys of labels and the like are nobody's to name."""
    if isinstance(value, dict):
        for name, one in value.items():
            if name in schema.get("properties", {}):
                yield (*at, name)
                yield from written(schema["properties"][name], one, (*at, name))
    elif isinstance(value, list):
        for k, one in enumerate(value):
            yield from written(schema.get("items", {}), one, (*at, k))


def as_path(place: Place) -> tuple[str, ...]:
    path = tuple("[]" if isinstance(one, int) else one for one in place)
    return next((("template", *path[len(pod) :]) for pod in PODS if path[: len(pod)] == pod), path)


def spec_of(key: tuple[str, str]) -> dict[str, Any]:
    return dict(CRD_FILE[key]["properties"]["spec"])


@pytest.mark.parametrize("key", CRD_FILE, ids=lambda key: key[1])
def test_the_definitions_name_all_fields_that_are_written_and_no_other(key):
    schema = spec_of(key)
    found = {
        as_path(place)
        for one in of_kuberay()
        if (one["apiVersion"], one["kind"]) == key
        for place in written(schema, one["spec"])
    }
    assert found == {as_path(path) for path in known(schema)}


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda owner, name: owner.update({f"{name}s": owner.pop(name)}), id="misspelt"),
        pytest.param(lambda owner, name: owner.update({name: 1.5}), id="another type"),
    ],
)
def test_no_field_is_misspelt_or_of_another_type_unseen(spoil):
    tried: set[tuple[str, ...]] = set()
    for one in of_kuberay():
        schema = spec_of((one["apiVersion"], one["kind"]))
        for place in written(schema, one["spec"]):
            path = (one["kind"], *as_path(place))
            if path in tried:
                continue
            tried.add(path)
            spoilt = copy.deepcopy(one)
            owner = spoilt["spec"]
            for step in place[:-1]:
                owner = owner[step]
            spoil(owner, place[-1])
            with pytest.raises(InvalidRequest, match=one["kind"]):
                check([spoilt], CRD_FILE)
    assert len(tried) > 100


def test_metadata_is_held_to_what_kubernetes_has_there():
    for spoil in ({"label": {}}, {"labels": {"a": 1}}, {"name": 3}):
        found = next(one for one in of_kuberay() if one["kind"] == "RayCluster")
        found["metadata"] = found["metadata"] | spoil
        with pytest.raises(InvalidRequest, match=r"RayCluster: \$.metadata"):
            check([found], CRD_FILE)


def test_two_entries_of_one_key_are_named_as_kubernetes_would_refuse_them():
    made = rendered()
    (container,) = head(made)["template"]["spec"]["containers"]
    container["ports"].append({"name": "again", "containerPort": 6379})
    container["env"].append({"name": container["env"][0]["name"], "value": "1"})
    with pytest.raises(InvalidRequest) as caught:
        check(made.manifests["cluster.yaml"], CRD_FILE)
    assert ".containers[0].ports[4]: containerPort 6379, protocol None is there already" in str(caught.value)
    assert ".containers[0].env[1]: name 'RAY_health_check_failure_threshold' is there already" in str(
        caught.value
    )


def test_a_key_that_has_a_default_is_counted_with_it():
    port = {
        "type": "object",
        "properties": {"port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}},
    }
    ports = {"type": "array", "x-kubernetes-list-map-keys": ["port", "protocol"], "items": port}
    schema = {"type": "object", "properties": {"spec": ports}}
    listed = [{"port": 1}, {"port": 1, "protocol": "UDP"}, {"port": 1, "protocol": "TCP"}]
    manifest = {"apiVersion": "x.io/v1", "kind": "X", "metadata": {"name": "x"}, "spec": listed}
    with pytest.raises(InvalidRequest) as caught:
        check([manifest], {("x.io/v1", "X"): schema})
    assert str(caught.value).count("is there already") == 1
    assert r"$.spec[2]: port 1, protocol 'TCP' is there already" in str(caught.value)
