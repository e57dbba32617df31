"""A cluster with TLS and tokens by the command line alone, and that no secret is seen anywhere."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from rowloom.client import PermissionDenied, Unauthenticated, connect
from rowloom.deploy.launch.cluster_folder import mark_of
from rowloom.deploy.launch.processes import marked

CONFIG = """
name: ads
shards: 2
storage: {storage}
security:
  {{ca: s/ca.pem, cert: s/server.pem, key: s/server.key, mutual: true, tokens: s/tokens.yaml, token: s/cluster.token}}
tables:
  - {{name: users, num_embeddings: 100, dim: 4, initializer: zeros}}
"""


@pytest.fixture
def secured(cli):
    """A folder that `secure init` made, and a token each for a trainer and a server of predictions."""
    told, _ = cli.run("secure", "init", "s", "--host", "ads.internal")
    assert "  # server_name: ads.internal    on Ray and on Kubernetes" in told
    cli.run("secure", "token", "trainer", "--allow", "pull:*,push:*,create:*", "--dir", "s")
    cli.run("secure", "token", "serving", "--allow", "pull:users", "--dir", "s")
    cli.write(CONFIG.format(storage=cli.folder / "storage"))
    return cli


def test_a_secured_cluster_is_started_used_scaled_and_ended_and_shows_no_secret(secured, monkeypatch):
    cli = secured
    secrets = [path.read_text().strip() for path in cli.folder.glob("s/*.token")]
    secrets += [line for path in cli.folder.glob("s/*.key") for line in path.read_text().splitlines()[1:3]]
    assert len(secrets) >= 6
    monkeypatch.setenv("ROWLOOM_TOKEN", "rowloom_of_whoever_types")
    secrets.append("rowloom_of_whoever_types")
    said = [json.dumps(cli.json("up"))]
    address = json.loads(said[0])["address"]
    monkeypatch.delenv("ROWLOOM_TOKEN")
    own = {"ca": "s/ca.pem", "cert": "s/client.pem", "key": "s/client.key"}
    with connect(address, token_file="s/trainer.token", **own) as client:
        client["users"].push(np.arange(100), np.ones((100, 4), np.float32))
        with pytest.raises(PermissionDenied):
            client.set_lr("users", 0.5)
    with connect(address, token_file="s/serving.token", **own) as client, pytest.raises(PermissionDenied):
        client["users"].push([1], np.ones((1, 4), np.float32))
    with pytest.raises(Unauthenticated):
        connect(address)
    for command in (
        ["status"],
        ["scale", "3"],
        ["inspect", "users", "3"],
        ["snapshot"],
        ["tables"],
        ["list"],
    ):
        found = cli.attempt(*command, "--json")
        said += found[:2]
        said += cli.attempt(*command)[:2] if command[0] != "scale" else []
        assert command[0] != "inspect" or json.loads(found[0])["row"] != [0.0] * 4
    assert cli.attempt("status", "--address", address)[2] != 0
    for name, value in {
        "CA": "ca.pem",
        "CERT": "client.pem",
        "KEY": "client.key",
        "TOKEN_FILE": "serving.token",
    }.items():
        monkeypatch.setenv(f"ROWLOOM_{name}", str(cli.folder / "s" / value))
    cli.run("status", "--address", address)
    _, err = cli.run("scale", "2", "--address", address, code=1)
    assert "'serving' may not call Scale: it lacks the right admin:*" in err
    for pid, _ in marked(mark_of(cli.directory.folder("ads"))):
        said.append(Path(f"/proc/{pid}/cmdline").read_text())
        said.append(Path(f"/proc/{pid}/environ").read_text())
    kept = [path for path in cli.directory.home.rglob("*") if path.is_file()]
    kept += [path for path in (cli.folder / "storage").rglob("*") if path.is_file()]
    assert len(kept) > 5
    said += [path.read_bytes().decode("latin-1") for path in kept]
    said += list(cli.run("down", "--yes"))
    assert len(said) > 20
    assert not [secret for secret in secrets for text in said if secret in text]


def test_a_token_without_the_right_ended_a_cluster_of_this_machine_by_its_address(secured, monkeypatch):
    cli = secured
    address = cli.json("up")["address"]
    for name, value in {"CA": "ca.pem", "CERT": "client.pem", "KEY": "client.key"}.items():
        monkeypatch.setenv(f"ROWLOOM_{name}", str(cli.folder / "s" / value))
    for token in ("trainer", "serving"):
        monkeypatch.setenv("ROWLOOM_TOKEN_FILE", str(cli.folder / "s" / f"{token}.token"))
        _, err = cli.run("down", "--address", address, "--yes", code=1)
        assert f"'{token}' may not call" in err
    assert cli.json("status")["shards"][0]["health"] == "serving"
    assert cli.directory.get("ads").address == address
    monkeypatch.delenv("ROWLOOM_TOKEN_FILE")
    monkeypatch.setenv("ROWLOOM_TOKEN", Path("s/cluster.token").read_text().strip())
    assert cli.json("down", "--address", address, "--yes")["down"]
    assert cli.directory.names() == []
    assert not marked(mark_of(cli.directory.home / "clusters" / "ads"))


def test_checks_of_a_secured_cluster_showed_nothing_and_took_it_for_silent(secured):
    cli = secured
    cli.run("up")
    assert cli.json("verify")["whole"]
    checks = {one["name"]: one["state"] for one in cli.json("doctor")["checks"]}
    assert (checks["cluster ads"], checks["clocks of cluster ads"]) == ("ok", "ok")
    with_its_config = cli.attempt("up", "--home", "other")
    cli.write(f"name: ads\nstorage: {cli.folder}/storage\n")
    without_it = cli.attempt("up", "--home", "other")
    for _, err, code in (with_its_config, without_it):
        if code != 2:  # it was started over the other one's layout
            cli.run("down", "--home", "other", "--yes")
        assert code == 2
        assert "is that of cluster 'ads', which runs and is not known here: it answers at 127.0.0.1:" in err
    assert cli.json("verify")["whole"]


def test_a_start_with_files_that_cannot_be_used_starts_nothing(secured):
    os.chmod("s/server.key", 0o644)
    _, err = secured.run("up", code=2)
    assert "may be read by others" in err
    assert secured.directory.names() == []


def test_init_overwrites_nothing_and_certificates_are_renewed(secured):
    _, err = secured.run("secure", "init", "s", code=2)
    assert "is not empty, and nothing in it is overwritten" in err
    before = Path("s/server.pem").read_bytes()
    found = secured.json(
        "secure", "certificate", "server", "--server", "--host", "ads.example.com", "--dir", "s"
    )
    assert Path(found["cert"]).read_bytes() != before
    _, err = secured.run("secure", "token", "bob", "--allow", "read:*", "--dir", "s", code=2)
    assert "is no right" in err
    secured.run("secure", "revoke", "serving", "--dir", "s")
    _, err = secured.run("secure", "revoke", "serving", "--dir", "s", code=2)
    assert "has no 'serving'; there is cluster, trainer" in err
