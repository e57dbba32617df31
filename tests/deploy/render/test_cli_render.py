"""`rowloom render k8s`: what it prints and writes, and how it ends."""

import json

import pytest
import yaml
from command_line import Cli
from rendered import CRDS

CONFIG = """
name: ads
shards: 2
launcher: ray
security: {insecure: true}
tables: [{name: users, num_embeddings: 1000, dim: 4}]
"""
RAY = ("--ray-version", "2.60.0")


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    found = Cli(tmp_path, monkeypatch, capsys)
    found.write(CONFIG)
    return found


def test_it_writes_a_folder_and_says_what_to_type_next(cli):
    out, err = cli.run(
        "render", "k8s", "deploy.yaml", *RAY, "--namespace", "ml", "--image", "r.example.com/rowloom:1"
    )
    assert err == ""
    for line in (
        "k8s: config.yaml, cluster.yaml, service.yaml, up.yaml, budgets.yaml, Dockerfile, constraints.txt",
        "docker build -t r.example.com/rowloom:1 k8s",
        "docker push r.example.com/rowloom:1",
        "kubectl apply -f k8s",
        'trainers: connect("ads.ml.svc:7400")',
        "in the pods, port: 7400 in place of 0",
    ):
        assert line in out.splitlines()
    assert "note: durability is memory" in out
    assert "names no registry" not in out
    found = [
        one for path in (cli.folder / "k8s").glob("*.yaml") for one in yaml.safe_load_all(path.read_text())
    ]
    (job,) = (one["metadata"]["name"] for one in found if one["kind"] == "RayJob")
    wait = "kubectl wait --namespace ml --timeout=15m --for=jsonpath='{.status.jobStatus}'=SUCCEEDED rayjob/"
    assert wait + job in out.splitlines()
    assert sorted(one["kind"] for one in found) == [
        "ConfigMap",
        "PodDisruptionBudget",
        "PodDisruptionBudget",
        "RayCluster",
        "RayJob",
        "Service",
    ]


def test_json_says_the_same_and_the_files_are_checked_against_definitions(cli):
    said = cli.json("render", "k8s", "--out", "there", *RAY, "--crd", str(CRDS))
    assert said["checked"] == ["RayCluster", "RayJob"]
    assert any("names no registry that nodes could take it from" in note for note in said["notes"])
    assert (said["name"], said["address"], said["workers"]) == ("ads", "ads:7400", 3)
    assert sorted(said["files"]) == sorted(f"there/{path.name}" for path in (cli.folder / "there").iterdir())
    assert said["worker"]["bytes"] > said["shard_bytes"] > 0


def test_its_exit_codes(cli):
    bad = cli.folder / "bad.json"
    crd = {
        "kind": "CustomResourceDefinition",
        "spec": {
            "group": "x.io",
            "names": {"kind": "X"},
            "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {}}}],
        },
    }
    bad.write_text(json.dumps(crd))
    cli.run("render", "k8s", *RAY)
    for *command, code, words in (
        ("none.yaml", 2, "cannot read the deploy config"),
        ("--image", "rowloom:latest", 2, "--image must have a tag that stays"),
        ("--claim", "x", 2, "storage: is missing, and --claim is given"),
        ("--crd", "none", 2, "none cannot be read as CustomResourceDefinitions"),
        ("--crd", str(bad), "--out", "other", 1, "RayCluster: no schema of ray.io/v1"),
        ("--spare", "0", 1, "has 3 worker pods, this config takes 2"),
    ):
        _, err = cli.run("render", "k8s", *command, *RAY, code=code)
        assert words in err, command
        assert err.startswith("rowloom: ")
    assert not (cli.folder / "other").exists()
    cli.run("render", "k8s", "--spare", "0", "--fewer", *RAY)
