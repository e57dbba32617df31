"""What is rendered for Kubernetes, held to the schemas that Kubernetes publishes; unknown keys are faults."""

from typing import Any

import pytest

validator = pytest.importorskip(
    "kubernetes_validate", reason="kubernetes-validate, which has Kubernetes' schemas, is not installed"
)

from rendered import EVERYTHING, head, rendered, worker  # noqa: E402

VERSIONS = ("1.28", "1.31")
OWN = ("v1", "policy/v1")  # of Kubernetes itself


def hold(manifest: dict[str, Any], version: str) -> None:
    validator.validate(manifest, version, strict=True)


def as_template(pod: dict[str, Any]) -> dict[str, Any]:
    """A pod's template by itself, in the kind that Kubernetes has for it."""
    return {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": pod}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", EVERYTHING)
def test_all_that_is_kubernetes_own_is_as_kubernetes_has_it(what, version):
    made = rendered(**what)
    found = [one for some in made.manifests.values() for one in some if one["apiVersion"] in OWN]
    assert {one["kind"] for one in found} >= {"ConfigMap", "Service"}
    submitter = made.manifests["up.yaml"][0]["spec"]["submitterPodTemplate"]
    pods = [as_template(pod) for pod in (head(made)["template"], worker(made)["template"], submitter)]
    for one in found + pods:
        hold(one, version)


@pytest.mark.parametrize(
    "spoil", [{"terminationGracePeriod": 3}, {"volumes": {}}, {"automountServiceAccountToken": "no"}]
)
def test_a_key_that_is_misspelt_or_of_another_type_is_seen(spoil):
    pod = worker(rendered())["template"]
    pod["spec"].update(spoil)
    with pytest.raises(validator.ValidationError):
        hold(as_template(pod), VERSIONS[0])
