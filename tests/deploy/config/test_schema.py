"""The JSON schema of the deploy config beside what `parse` takes."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rowloom.client import TableSpec
from rowloom.deploy.config.config import DeployConfig, InvalidConfig, parse
from rowloom.deploy.config.schema import DRAFT, schema
from rowloom.proto.spec import Initializer, Optimizer, Recipe

jsonschema = pytest.importorskip("jsonschema")

MADE = schema()
VALIDATOR = jsonschema.Draft202012Validator(MADE)
DOCS = Path(__file__).parents[3]
BLOCKS = [
    text
    for file in (*(DOCS / "docs").glob("*.md"), DOCS / "README.md")
    for text in re.findall(
        r"^```yaml\n(.*?)^```$", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    if set(yaml.safe_load(text)) & set(DeployConfig.model_fields)  # others are files of other programs
]
# Others are of Prometheus, or of tokens.
EXAMPLES = [text for text in BLOCKS if set(yaml.safe_load(text)) & set(MADE["properties"])]


def allows(value: object) -> bool:
    return VALIDATOR.is_valid(value)


def parses(value: object) -> bool:
    try:
        parse(value)
    except InvalidConfig:
        return False
    return True


def with_table(**keys: object) -> dict[str, object]:
    return {"tables": [{"name": "users", **keys}]}


def test_it_is_a_schema_that_says_of_which_draft_and_explains_keys():
    jsonschema.Draft202012Validator.check_schema(MADE)
    assert MADE["$schema"] == DRAFT
    assert "logs" not in MADE["properties"]
    assert "where the layout is kept" in MADE["properties"]["storage"]["description"]


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_config_in_the_documents_is_allowed(text):
    value = yaml.safe_load(text)
    assert parses(value)
    assert allows(value), list(VALIDATOR.iter_errors(value))


def test_there_are_examples():
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"shards": 4.0, "port": 0, "limits": {"start_timeout_s": 30}},
        {"launcher": "ray", "ray": {"memory_per_shard": "8GiB", "resources": {"ps_node": 1}}},
        {"launcher": "ray", "ray": {"memory_per_shard": 1000, "placement": "STRICT_PACK"}},
        {"storage": "/x", "durability": "disk", "snapshots": {"every": "10m", "keep": 3}},
        {"storage": "s3://bucket/x", "snapshots": {"every": 600}},
        with_table(dim=[2, 5], num_embeddings=1e6, partition="div"),
        with_table(optimizer="sgd", initializer="zeros"),
        with_table(optimizer={"adagrad": {"lr": 0.05}}, initializer={"normal": {"std": 0.01, "seed": 7}}),
        with_table(optimizer={"name": "Adam", "lr": 0.001, "betas": [0.9, 0.99]}),
        with_table(optimizer={"sgd": None}, initializer={"constant": {"value": 3}}),
        with_table(optimizer={"sgd": {"lr": {"warmup": {"steps": 9, "after": {"cosine": {"lr": 0.1}}}}}}),
        with_table(constraint={"clip_norm": 1.0}, metadata={"team": "ads"}, wire="int8"),
    ],
)
def test_what_is_allowed_is_what_parses(value):
    assert parses(value), value
    assert allows(value), list(VALIDATOR.iter_errors(value))


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"nam": "ads"},
        {"name": "a b"},
        {"shards": 0},
        {"shards": "4"},
        {"shards": 1025},
        {"launcher": "kubernetes"},
        {"ray": {}},
        {"durability": "disk"},
        {"durability": "safe", "storage": "/x"},
        {"snapshots": {"every": "soon"}, "storage": "/x"},
        {"launcher": "ray", "ray": {"memory_per_shard": "8 elephants"}},
        {"tables": [{"dim": 4}]},
        with_table(dims=4),
        with_table(dim="4"),
        with_table(wire="int4"),
        with_table(optimizer="adagard"),
        with_table(optimizer={"adagrad": {"rate": 0.05}}),
        with_table(optimizer={"name": "adagrad", "rate": 0.05}),
        with_table(optimizer={"adagrad": {}, "sgd": {}}),
    ],
)
def test_what_is_not_allowed_does_not_parse(value):
    assert not allows(value)
    assert not parses(value)


def recipes(family: type[Recipe]) -> list[Recipe]:
    """One of each kind that needs no argument."""
    found = []
    for cls in Recipe.kinds.values():
        if issubclass(cls, family) and cls is not family:
            try:
                found.append(cls())
            except TypeError:
                continue
    return found


@given(
    optimizer=st.sampled_from(recipes(Optimizer)),
    initializer=st.sampled_from(recipes(Initializer)),
    ids=st.none() | st.integers(1, 2**40),
    dim=st.integers(1, 4096) | st.tuples(st.integers(1, 9), st.integers(1, 9)),
    shards=st.integers(1, 1024),
    storage=st.none() | st.just("/var/lib/x"),
)
def test_every_config_as_it_is_written_out_is_allowed(optimizer, initializer, ids, dim, shards, storage):
    spec = TableSpec("t", ids, dim=dim, optimizer=optimizer, initializer=initializer)
    config = parse({"shards": shards, "storage": storage, "tables": [spec]})
    value = json.loads(config.to_json())
    assert allows(value), list(VALIDATOR.iter_errors(value))
