"""What is said of a wrong config: in words of YAML, of all of it at once, with the line where it stands."""

import dataclasses
import math
import re

import pytest

from rowloom.client import TableSpec
from rowloom.deploy.config.changes import worded
from rowloom.deploy.config.config import DeployConfig, InvalidConfig, load, parse
from rowloom.deploy.config.faults import as_yaml
from rowloom.deploy.config.quotas import QuotaConfig
from rowloom.deploy.config.refused import section_at
from rowloom.proto.spec import Initializer, Optimizer, Recipe, Schedule

WRONG = [
    *(None, True, False, "", "x", -1, 0, 1.5, 1e400, -1e400, math.nan, 1e300, 2**64, 10**400, "1", "y" * 300),
    *([], {}, [None], {"a": None}, {1: True}, {None: False}, [[{"b": True}]], (None,)),
]
PYTHON = re.compile(
    r"\b(None|True|False|dict|NoneType|tuple|Traceback|str|float)\b|\*\*|<class|object at|[a-z]Error\b"
)
BESIDE = {
    "ray": {"launcher": "ray"},
    "quotas": {"security": {"tokens": "a", "token": "b"}},
}


def test_a_key_written_twice_was_reported_alone(tmp_path):
    path = tmp_path / "deploy.yaml"
    path.write_text("name: a\nshards: x\nname: b\ntables:\n- name: t\n  dim: 4\n  dim: 5\n  q: 3\n")
    with pytest.raises(InvalidConfig) as error:
        load(path)
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "line 2: shards: must be a whole number, got 'x'",
        "line 3: name: is written twice, in line 1 too: leave one",
        "line 7: dim: is written twice, in line 6 too: leave one",
        next(line.strip() for line in str(error.value).splitlines() if "tables[0].q: is no key here" in line),
    ]


def test_the_rate_by_its_name_of_keras_was_no_key_and_near_to_none():
    optimizers = ({"adagrad": {"learning_rate": 0.05}}, {"adam": {"lr": {"cosine": {"learning_rate": 0.1}}}})
    for optimizer in optimizers:
        faults = said({"tables": [{"name": "t", "dim": 4, "optimizer": optimizer}]})
        assert "learning_rate: is no key here; did you mean 'lr'?" in faults[0]


def said(value: object) -> list[str]:
    """What is said of each fault; nothing if there is none."""
    try:
        parse(value)
    except InvalidConfig as e:
        assert e.faults  # noqa: PT017  # either outcome is right, but not without a reason
        return [str(fault) for fault in e.faults]
    return []


def sections() -> list[str]:
    return [
        name for name in DeployConfig.model_fields if section_at((name,), DeployConfig) is not DeployConfig
    ]


def in_table(kind: str, arguments: object) -> dict[str, object]:
    family = Recipe.kinds[kind]
    recipe = {kind.lower(): arguments}
    if issubclass(family, Schedule):
        return {"optimizer": {"sgd": {"lr": recipe}}}
    if issubclass(family, Optimizer):
        return {"optimizer": recipe}
    return {"initializer": recipe} if issubclass(family, Initializer) else {"constraint": arguments}


def configs(wrong: object) -> list[object]:
    """A config with a wrong value, for each key that there is."""
    made: list[object] = [wrong, {"tables": wrong}, {"tables": [wrong]}]
    made += [{key: wrong} for key in DeployConfig.model_fields]
    for name in sections():
        keys = section_at((name,), DeployConfig).model_fields
        made += [BESIDE.get(name, {}) | {name: {key: wrong}} for key in (*keys, "kye")]
    for key in QuotaConfig.model_fields:
        made.append(
            BESIDE["quotas"] | {"quotas": {"default": {key: wrong}, "principals": {"ann": {key: wrong}}}}
        )
    for key in ("env_vars", "working_dir", "py_modules", "kye"):
        made.append({"launcher": "ray", "ray": {"runtime_env": {key: wrong}}})
    for field in dataclasses.fields(TableSpec):
        made.append({"tables": [{"name": "a", field.name: wrong}]})
    for kind, recipe in Recipe.kinds.items():
        tables = [{"name": kind} | in_table(kind, wrong)]
        tables += [
            {"name": f"{kind}{i}"} | in_table(kind, {field.name: wrong})
            for i, field in enumerate(dataclasses.fields(recipe))
        ]
        made.append({"tables": tables})
    return made


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: repr(wrong)[:20])
def test_no_fault_has_words_of_python(wrong):
    # 1e400 was an internal error, null was None, true was True, and a bound was 2**63.
    for config in configs(wrong):
        for text in said(config):
            assert not PYTHON.search(text), text
            assert len(text) < 450, text


def test_every_fault_of_a_config_is_in_one_list_also_those_of_several_keys(tmp_path):
    # The bounds of autoscale, what quotas need, and names of tables came when all else was mended.
    path = tmp_path / "deploy.yaml"
    path.write_text(
        """
port: -1
replicas: 1
launcher: ray
storage: /x
autoscale:
  min: 5
  max: 2
  cooldown: soon
quotas: {default: {rows: 3}}
host: 10.0.0.300
tables:
  - {name: a, dim: 0}
  - {name: a, num_embeddings: 10,
     optimizer: {adam: {lr: x}}}
  - dim: 3
on: 1
"""
    )
    with pytest.raises(InvalidConfig) as caught:
        load(path)
    lines = str(caught.value).split("\n  ")
    assert lines[0] == f"{path} has 11 faults:"
    assert [tuple(line.split(": ")[:2]) for line in lines[1:]] == [
        ("line 2", "port"),
        ("line 6", "autoscale"),
        ("line 7", "autoscale.min"),
        ("line 9", "autoscale.cooldown"),
        ("line 10", "quotas"),
        ("line 11", "host"),
        ("line 13", "tables[0].dim"),
        ("line 14", "tables[1].name"),
        ("line 15", "tables[1].optimizer.adam.lr"),
        ("line 16", "tables[2].name"),
        ("line 17", "true"),
    ]


@pytest.mark.parametrize(
    ("config", "only"),
    [
        ({"durability": "disk", "storage": 3}, "storage"),
        ({"durability": "disk", "stroage": "/x"}, "stroage"),
        ({"autoscale": {"min": 5, "max": "x", "target_qps_per_shard": 1}}, "autoscale.max"),
        ({"ray": 3}, "ray"),
        ({"launcher": "rya", "ray": {}}, "launcher"),
        ({"quotas": {"default": {"rows": 1}}, "security": {"tokens": 3}}, "security.tokens"),
    ],
)
def test_nothing_is_said_of_keys_together_of_which_one_is_refused_itself(config, only):
    with pytest.raises(InvalidConfig) as caught:
        parse(config)
    assert [fault.path for fault in caught.value.faults] == [only]


@pytest.mark.parametrize(
    ("lr", "words"),
    [
        ("x", "lr: must be a number or a schedule, as {cosine: {lr: 0.1, decay_steps: 1000}}, got 'x'"),
        ("0.1", "got '0.1'; did you mean 0.1?"),
        ("cosin", "lr: is no schedule, got 'cosin'; did you mean 'cosine'?"),
        ({}, "lr: must be a number or a schedule, as {cosine"),
    ],
)
def test_a_rate_that_is_none_was_no_schedule(lr, words):
    (text,) = said({"tables": [{"name": "a", "optimizer": {"sgd": {"lr": lr}}}]})
    assert words in text


@pytest.mark.parametrize(
    "config",
    [
        {"durability": None},  # it was: did you mean 'process'?
        {"launcher": "a/b"},  # 'ray'
        {"log": {"level": math.nan}},  # 'warning'
        {"shards": -(2**70)},
        {"port": 2**64},
        {"limits": {"stop_grace_s": -1}},  # 0.0
        {"autoscale": {"max": 4, "target_qps_per_shard": 1, "a": 1}},  # 'max'
    ],
)
def test_what_is_far_from_everything_is_taken_for_nothing(config):
    (text,) = said(config)
    assert "did you mean" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0.1, "0.1"),
        (math.inf, ".inf"),
        ("a'b", '"a\'b"'),
        ("true", "'true'"),
        ({"a": ["x", "no", None]}, "{a: [x, 'no', null]}"),
        (list(range(30)), f"[{', '.join(map(str, range(20)))}, ...]"),
        ([[[[[[[1]]]]]]], "[[[[[...]]]]]"),
        (10**50, "1e+50"),
    ],
)
def test_a_value_is_shown_as_yaml_has_it(value, text):
    assert as_yaml(value) == text


def test_a_value_that_changes_is_shown_as_yaml_has_it():
    assert (worded(True), worded("mod"), worded(0.5)) == ("true", "'mod'", "0.5")


def test_a_date_is_a_text(tmp_path):
    # Of a month 13 it was said "month must be in 1..12", and not where.
    path = tmp_path / "deploy.yaml"
    path.write_text("name: 2026-11-29\n")
    assert load(path).name == "2026-11-29"
    path.write_text("shards: 2024-13-01\n")
    with pytest.raises(InvalidConfig, match="line 1: shards: must be a whole number, got '2024-13-01'"):
        load(path)


def test_a_fault_shows_a_value_as_it_was_typed_and_says_got_once(tmp_path):
    path = tmp_path / "deploy.yaml"
    for text in (
        "durability: process\nstorage: s3://a/b\n",
        "snapshots: {every: 10m}\n",
    ):
        path.write_text(text)
        with pytest.raises(InvalidConfig) as refused:
            load(path)
        assert "600.0" not in str(refused.value)
        assert all(line.count("got ") <= 1 for line in str(refused.value).splitlines())


@pytest.mark.parametrize(
    ("typed", "meant"), [("5Gb", "5GB"), ("5m", "5MB"), ("1.5gib", "1.5GiB"), ("2T", "2TB"), ("much", None)]
)
def test_a_size_in_another_spelling_was_refused_without_the_one_that_is_taken(typed, meant):
    (text,) = said({"limits": {"max_extra_memory": typed}})
    assert text.endswith(f"; did you mean '{meant}'?" if meant else f"got '{typed}'")


def test_a_name_that_yaml_takes_for_a_number_is_to_be_written_in_quotes():
    (text,) = said({"name": 5})
    assert text.endswith("this is no text: write it in quotes, got 5; did you mean '5'?")
    assert "write it in quotes, got true" in said({"name": True})[0]
