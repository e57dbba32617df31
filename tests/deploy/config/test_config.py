"""The deploy config: what it takes, and that every fault is named at once."""

import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.client import SGD, Adagrad, Adam, Normal, TableSpec
from rowloom.deploy.config.changes import diff, refuse, running_config
from rowloom.deploy.config.config import DeployConfig, InvalidConfig, from_json, load, parse
from rowloom.deploy.config.memory import memory, row_bytes
from rowloom.deploy.config.tables import plain
from rowloom.deploy.launch.keeping import keeping
from rowloom.deploy.operate.status import summary
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.spec import Constraint, Cosine, Initializer, Optimizer, Recipe, TableEntry, WarmUp

FULL = """
name: ads
shards: 4
launcher: ray
ray: {address: auto, placement: SPREAD, num_cpus_per_shard: 1, memory_per_shard: 8GiB, resources: {ps_node: 1}}
storage: file:///var/lib/rowloom/ads
durability: memory
advertise_host: 10.1.0.0/16
limits: {start_timeout_s: 30}
tables:
  - name: users
    num_embeddings: 1e7
    dim: 64
    optimizer: {adagrad: {lr: 5e-2}}
    initializer: {normal: {std: 0.01, seed: 7}}
  - {name: items, dim: [2, 5], optimizer: {name: Adam, lr: 0.001, betas: [0.9, 0.99]}}
  - {name: words, num_embeddings: 10_000, partition: div, optimizer: sgd}
"""


def faults(text, tmp_path) -> dict[str, str]:
    """The message of each fault, by its path."""
    path = tmp_path / "deploy.yaml"
    path.write_text(text)
    with pytest.raises(InvalidConfig) as caught:
        load(path)
    assert isinstance(caught.value, InvalidRequest)
    for fault in caught.value.faults:
        assert str(fault) in str(caught.value)
    return {fault.path: str(fault) for fault in caught.value.faults}


def test_a_full_config_means_what_it_says(tmp_path):
    (tmp_path / "deploy.yaml").write_text(FULL)
    config = load(tmp_path / "deploy.yaml")
    assert (config.name, config.shards, config.launcher) == ("ads", 4, "ray")
    assert config.ray.memory_per_shard == 8 * 2**30
    assert config.ray.resources == {"ps_node": 1.0}
    assert config.limits.start_timeout_s == 30
    assert config.tables == (
        TableSpec("users", 10_000_000, 64, optimizer=Adagrad(lr=0.05), initializer=Normal(std=0.01, seed=7)),
        TableSpec("items", dim=(2, 5), optimizer=Adam(lr=0.001, betas=(0.9, 0.99))),
        TableSpec("words", 10_000, partition="div", optimizer=SGD()),
    )


def test_schedules_and_constraints_are_recipes_within_recipes():
    optimizer = {
        "sgd": {"lr": {"warmup": {"steps": 10, "after": {"cosine": {"lr": 0.1, "decay_steps": 100}}}}}
    }
    table = {"name": "a", "optimizer": optimizer, "constraint": {"clip_norm": 1}}
    spec = parse({"tables": [table]}).tables[0]
    assert spec.optimizer == SGD(lr=WarmUp(steps=10, after=Cosine(lr=0.1, decay_steps=100)))
    assert spec.constraint == Constraint(clip_norm=1)
    assert summary(status_of(parse({"tables": [spec]})))["tables"][0]["lr"] == plain(spec.optimizer.lr)


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("host: 0.0.0.0", "host advertise_host"),
        ("advertise_host: 10.1.0.0/16", "advertise_host"),
        ("advertise_host: 10.1.2.3/16\nlauncher: ray", "advertise_host"),
        ("advertise_host: a/b\nlauncher: ray", "advertise_host"),
        ("name: a/b", "name"),
    ],
)
def test_addresses_that_nobody_could_connect_to_are_refused(text, paths, tmp_path):
    assert list(faults(text + "\n", tmp_path)) == paths.split()
    private = {"security": {"insecure": True}}
    assert parse({"launcher": "ray", "host": "0.0.0.0"} | private).host == "0.0.0.0"


def test_an_address_in_a_network_is_no_network_and_is_not_taken_for_a_name(tmp_path):
    found = faults("launcher: ray\nadvertise_host: 10.1.2.3/16\n", tmp_path)
    assert "did you mean '10.1.0.0/16'?" in found["advertise_host"]
    assert parse({"launcher": "ray", "advertise_host": "10.1.0.0/16"}).advertise_host == "10.1.0.0/16"


def test_a_storage_of_a_protocol_that_nothing_reads_is_a_fault(tmp_path):
    assert "foo:// is no store that is known" in faults("storage: foo://x\n", tmp_path)["storage"]
    assert "is blank" in faults("storage: ' '\n", tmp_path)["storage"]
    for good in ("/var/lib/x", "file:///var/lib/x", "s3://bucket/x", "memory://x"):
        assert parse({"storage": good}).storage == good


DOUBLED = "b0: &b0 [x]\n" + "".join(f"b{i}: &b{i} [*b{i - 1}, *b{i - 1}]\n" for i in range(1, 18))


LOADED_IN_A_GIBIBYTE = """
import resource, sys
from rowloom.deploy.config.config import InvalidConfig, load
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
try:
    load(sys.argv[1])
except InvalidConfig as e:
    sys.exit(f"refused: {e}")
"""


def test_aliases_of_aliases_are_counted_and_never_written_out(tmp_path):
    # In a process of its own: without that check the refusal itself, which quotes the value, took all memory.
    (tmp_path / "deploy.yaml").write_text(DOUBLED)
    command = [sys.executable, "-c", LOADED_IN_A_GIBIBYTE, str(tmp_path / "deploy.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert "refused: " in done.stderr, done.stderr[-2000:]
    assert "aliases make more than 100,000 values of it" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: &a [*a]\n", "aliases make more than 100,000 values of it"),
        ("name: " + "[" * 5000 + "]" * 5000, "nested too deep"),
    ],
)
def test_a_file_that_grows_without_bound_when_its_aliases_are_written_out_is_refused(text, words, tmp_path):
    (tmp_path / "deploy.yaml").write_text(text)
    with pytest.raises(InvalidRequest, match=words):
        load(tmp_path / "deploy.yaml")


def test_an_alias_that_is_used_twice_is_fine(tmp_path):
    (tmp_path / "deploy.yaml").write_text(
        "tables:\n  - {name: a, dim: 2, optimizer: &o {sgd: {lr: 0.5}}}\n  - {name: b, dim: 2, optimizer: *o}\n"
    )
    assert [t.optimizer for t in load(tmp_path / "deploy.yaml").tables] == [SGD(lr=0.5)] * 2


def test_an_empty_config_is_one_shard_on_this_machine(tmp_path):
    (tmp_path / "deploy.yaml").write_text("# nothing yet\n")
    config = load(tmp_path / "deploy.yaml")
    assert (config.name, config.shards, config.launcher, config.tables) == ("default", 1, "local", ())


def test_only_a_file_that_sets_no_key_is_said_to_set_none(tmp_path):
    for text, nothing in (
        ("", True),
        ("# nothing\n", True),
        ("shards: 1\n", False),
        ("tables: [{name: a}]\n", False),
    ):
        (tmp_path / "deploy.yaml").write_text(text)
        assert load(tmp_path / "deploy.yaml").sets_nothing == nothing, text


def test_every_fault_is_reported_at_once_with_path_value_and_nearest(tmp_path):
    found = faults(
        """
name: -x
shard: 4
shards: 0
launcher: rays
durability: disc
ray: {adress: auto, placement: SPRED, memory_per_shard: 8GiX, num_cpus_per_shard: true}
port: 70000
tables:
  - {name: users, dims: 64, dim: 0, partition: modd, optimizer: {adagrd: {lr: 0.1}}}
  - {name: a, num_embeddings: abc, optimizer: {adagrad: {lrr: 1, lr: -1, eps: -1}}, initializer: {normal: {std: x}}}
  - {name: b, partition: div}
  - {name: b, dim: 5000, hash_ids: 3}
  - {name: c, optimizer: {sgd: {nesterov: true}}}
  - {dim: 4}
  - 5
  - name: d
    optimizer: {adam: {mode: dens, lr: {cosin: {lr: 0.1}}}}
    constraint: {clip_nrm: 1, low: x}
    initializer: 5
""",
        tmp_path,
    )
    expected = {
        "name": "got '-x'",
        "shard": "is no key here; did you mean 'shards'?",
        "shards": "must be at least 1, got 0",
        "launcher": "must be local or ray, got 'rays'; did you mean 'ray'?",
        "durability": "must be memory or process or interval or disk, got 'disc'; did you mean 'disk'?",
        "ray.adress": "is no key here; did you mean 'address'?",
        "ray.placement": "got 'SPRED'; did you mean 'SPREAD'?",
        "ray.memory_per_shard": "must be bytes, as 8GiB, 500MB or a number, got '8GiX'",
        "ray.num_cpus_per_shard": "must be a number, got true",
        "port": "must be a whole number of 0 to 65535, got 70000; did you mean 7000?",
        "tables[0].dims": "is no key here; did you mean 'dim'?",
        "tables[0].dim": "must be at least 1, got 0",
        "tables[0].partition": "got 'modd'; did you mean 'mod'?",
        "tables[0].optimizer.adagrd": "is no optimizer, got 'adagrd'; did you mean 'adagrad'?",
        "tables[1].num_embeddings": "must be a whole number or left out, got 'abc'",
        "tables[1].optimizer.adagrad.lrr": "is no key here; did you mean 'lr'?",
        "tables[1].optimizer.adagrad.lr": "must be finite and at least 0, got -1",
        "tables[1].optimizer.adagrad.eps": "must be at least 0, got -1",
        "tables[1].initializer.normal.std": "must be a number, got 'x'",
        "tables[2].partition": "got 'div'",
        "tables[3].dim": "must be at most 4096 columns, got 5000",
        "tables[3].hash_ids": "must be true or false, got 3",
        "tables[3].name": "is the name of tables[2] too, got 'b'",
        "tables[4].optimizer.sgd.nesterov": "must be false without momentum, got true",
        "tables[5].name": "is required",
        "tables[6]": "must be a mapping",
        "tables[7].optimizer.adam.mode": "got 'dens'; did you mean 'dense'?",
        "tables[7].optimizer.adam.lr.cosin": "is no schedule, got 'cosin'; did you mean 'cosine'?",
        "tables[7].constraint.clip_nrm": "did you mean 'clip_norm'?",
        "tables[7].constraint.low": "must be a number or left out, got 'x'",
        "tables[7].initializer": "must be an initializer, as {normal: {std: 0.01}}, got 5",
    }
    assert sorted(found) == sorted(expected)
    for path, words in expected.items():
        assert words in found[path], found[path]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("durability: process\n", "needs `storage:`, a folder that outlives the servers, got 'process'"),
        ("durability: disk\nstorage: s3://bucket\n", "needs a folder of this machine as `storage:`"),
        ("durability: disk\nstorage: s3://x\nlauncher: ray\n", "needs a folder that all nodes of Ray share"),
    ],
)
def test_a_durability_without_a_place_for_logs_is_refused(text, problem, tmp_path):
    assert problem in faults(text, tmp_path)["durability"]


@pytest.mark.parametrize("storage", ["/var/lib/x", "file:///var/lib/x"])
def test_logs_and_snapshots_lie_in_the_storage(storage):
    config = parse({"durability": "disk", "storage": storage})
    assert keeping(config) == [
        "--snapshots",
        f"{storage}/snapshots",
        "--durability",
        "disk",
        "--log-folder",
        "/var/lib/x/logs",
    ]
    assert keeping(parse({})) == []


def test_a_table_named_twice_is_refused(tmp_path):
    found = faults("tables: [{name: a}, {name: b}, {name: a}]\n", tmp_path)
    assert list(found) == ["tables[2].name"]
    assert "is the name of tables[0] too" in found["tables[2].name"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shards: 2\nshards: 3\n", "line 2: shards: is written twice, in line 1 too: leave one"),
        ("shards: [1\n", "line 2"),
        ("- shards\n", "must be a mapping"),
        ("name: *nobody\n", "undefined alias"),
        ("name: \0ads\n", r"it is not text: character 7 is '.x00'"),
        ("name: !!python/name:os.system x\n", "could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_config_is_refused_with_its_place(text, words, tmp_path):
    (tmp_path / "deploy.yaml").write_text(text)
    with pytest.raises(InvalidConfig, match=words):
        load(tmp_path / "deploy.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidConfig, match=r"cannot read .*nowhere.yaml.*No such file"):
        load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 2**33),
        ("1.5 GiB", 3 * 2**29),
        ("500MB", 5 * 10**8),
        ("64K", None),
        (4096, 4096),
        ("-1GiB", None),
    ],
)
def test_memory_is_read_with_its_unit(text, size):
    value = {"launcher": "ray", "ray": {"memory_per_shard": text}}
    if size is None:
        with pytest.raises(InvalidConfig, match="memory_per_shard"):
            parse(value)
    else:
        assert parse(value).ray.memory_per_shard == size


def recipes(family: type[Recipe]) -> st.SearchStrategy:
    kinds = [c for c in Recipe.kinds.values() if issubclass(c, family) and c is not family]
    return st.sampled_from(sorted(kinds, key=lambda c: c.__name__)).map(lambda c: c())


SPECS = st.builds(
    TableSpec,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    num_embeddings=st.none() | st.integers(1, 2**63 - 1),
    dim=st.integers(1, 4096) | st.lists(st.integers(1, 8), max_size=4).map(tuple),
    optimizer=recipes(Optimizer),
    initializer=recipes(Initializer),
    hash_ids=st.booleans(),
    frozen=st.booleans(),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)
CONFIGS = st.builds(
    lambda shards, specs: parse({"shards": shards, "tables": specs}),
    st.integers(1, 1024),
    st.lists(SPECS, max_size=3, unique_by=lambda s: s.name),
)


@given(CONFIGS)
def test_json_brings_back_the_same_config(config):
    again = from_json(config.to_json())
    assert again == config
    assert again.hash == config.hash
    assert json.loads(config.to_json())["shards"] == config.shards


@given(CONFIGS, st.integers(1, 1024))
def test_the_hash_stands_for_the_whole_config(config, shards):
    other = config.model_copy(update={"shards": shards})
    assert (other.hash == config.hash) == (other == config)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [*DeployConfig.model_fields, *(f.name for f in dataclasses.fields(TableSpec)), "adagrad"]
)
TABLES = st.lists(
    st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=2), max_size=5), max_size=2
)


@given(st.dictionaries(KEYS, VALUES, max_size=5), st.none() | TABLES)
def test_whatever_is_in_it_is_taken_or_refused_with_a_reason(value, tables):
    if tables is not None:
        value["tables"] = tables
    try:
        config = parse(value)
    except InvalidConfig as e:
        assert e.faults  # noqa: PT017  # either outcome is right, but not without a reason
    else:
        assert from_json(config.to_json()) == config


# --------------------------------------------------------------------------------------------------------------- plan


USERS = TableSpec("users", 1000, 8, optimizer=Adagrad(lr=0.1))


def status_of(config: DeployConfig, *, rows: int = 0, lr: float | None = None) -> pb.StatusReply:
    """What a coordinator would answer: `rows` rows of every table on each shard."""
    reply = pb.StatusReply(config=config.to_json(), name=config.name)
    for i, spec in enumerate(config.tables):
        reply.tables.append(TableEntry(i + 1, spec, lr).to_message())
    for index in range(config.shards):
        reply.layout.shards.add(index=index)
        shard = reply.shards.add()
        for i, spec in enumerate(config.tables):
            size = rows * row_bytes(spec)
            shard.statistics.tables.add(table=i + 1, name=spec.name, rows=rows, bytes=size)
    return reply


def actions(old: DeployConfig, new: DeployConfig) -> dict[str, str]:
    return {change.path: change.action for change in diff(old, new)}


def test_shards_new_tables_and_learning_rates_can_change_while_it_runs():
    old = parse({"shards": 2, "tables": [USERS]})
    faster = dataclasses.replace(USERS, optimizer=Adagrad(lr=0.5))
    new = parse({"shards": 3, "tables": [faster, TableSpec("items")]})
    assert actions(old, new) == {
        "shards": "scale",
        "tables.users.optimizer.lr": "set_lr",
        "tables.items": "create",
    }
    refuse(diff(old, new))


def test_what_cannot_change_is_refused_all_at_once_and_says_what_to_do():
    old = parse({"shards": 2, "tables": [USERS]})
    new = parse({"name": "b", "shards": 3, "launcher": "ray", "port": 7400, "limits": {"stop_grace_s": 1}})
    wider = dataclasses.replace(USERS, dim=16, optimizer=SGD(lr=0.5))
    new = new.model_copy(update={"tables": (wider,)})
    found = actions(old, new)
    refused = {path for path, action in found.items() if action == "refused"}
    table = {"tables.users.dim", "tables.users.optimizer"}
    assert refused == {"name", "launcher", "port", "limits.stop_grace_s"} | table
    with pytest.raises(
        InvalidRequest, match=r"nothing was changed(.|\n)*tables.users.dim: 8 -> 16"
    ) as caught:
        refuse(diff(old, new))
    assert "`rowloom down --name default`" in str(caught.value)


def test_a_number_replaces_a_schedule_while_it_runs_but_not_the_other_way_round():
    schedule = dataclasses.replace(USERS, optimizer=Adagrad(lr=Cosine(lr=0.1, decay_steps=100)))
    number, fixed = parse({"tables": [USERS]}), parse({"tables": [schedule]})
    assert actions(fixed, number) == {"tables.users.optimizer.lr": "set_lr"}
    assert actions(number, fixed) == {"tables.users.optimizer.lr": "refused"}
    for change in (*diff(fixed, number), *diff(number, fixed)):
        json.dumps(dataclasses.asdict(change))


def test_a_table_that_the_config_does_not_list_stays():
    old = parse({"tables": [USERS]})
    assert actions(old, parse({})) == {"tables.users": "keep"}
    refuse(diff(old, parse({})))
    (change,) = diff(old, parse({}))
    # It said "'present' -> none".
    assert str(change) == (
        "tables.users: is there, and this config leaves it out (keep: it stays with its rows; "
        "`rowloom drop users --name default` removes it)"
    )
    json.dumps(dataclasses.asdict(change))


def test_the_same_config_is_no_change():
    assert diff(parse({"tables": [USERS]}), parse({"tables": [USERS]})) == []


def test_what_was_scaled_and_set_since_the_start_is_part_of_what_runs():
    config = parse({"shards": 2, "tables": [USERS]})
    status = status_of(config.model_copy(update={"shards": 5}), lr=0.7)
    status.config = config.to_json()
    running = running_config(status)
    assert running.shards == 5
    assert running.tables[0].optimizer == Adagrad(lr=0.7)


def test_memory_of_a_shard_is_that_of_the_fullest():
    row = 4 * (8 + 8) + 20  # 8 columns, as many accumulators, id and index
    assert row_bytes(USERS) == row
    assert memory(parse({"shards": 3, "tables": [USERS]})).bound_bytes == 334 * row
    assert memory(parse({"shards": 3, "tables": [USERS, TableSpec("open")]})).bound_bytes is None


def test_while_rows_move_a_shard_that_stays_holds_old_and_new_rows():
    config = parse({"shards": 2, "tables": [USERS]})
    need = memory(config.model_copy(update={"shards": 4}), status_of(config, rows=100))
    row = row_bytes(USERS)
    assert (need.now_bytes, need.after_bytes, need.peak_bytes) == (100 * row, 50 * row, 150 * row)
    assert memory(config, status_of(config, rows=100)).peak_bytes == 100 * row


@pytest.mark.parametrize(
    ("limit", "fits", "warned"), [(8063, False, True), (8064, True, True), (10**6, True, False)]
)
def test_rows_that_do_not_fit_the_reservation_are_found_before_they_move(limit, fits, warned):
    value = {"shards": 2, "launcher": "ray", "ray": {"memory_per_shard": limit}, "tables": [USERS]}
    need = memory(parse(value | {"shards": 1}), status_of(parse(value), rows=32))
    assert need.peak_bytes == 8064  # 84 bytes a row: 32 old ones and 64 new ones
    assert (need.fits, bool(need.warning)) == (fits, warned)


def test_a_change_names_its_table_apart_from_its_path_which_has_dots():
    dotted = TableSpec("x.optimizer.lr", 1000, 8, optimizer=Adagrad(lr=0.1))
    (made,) = diff(parse({}), parse({"tables": [dotted]}))
    assert (made.action, made.table) == ("create", "x.optimizer.lr")
    slower = dataclasses.replace(dotted, optimizer=Adagrad(lr=0.01))
    (changed,) = diff(parse({"tables": [dotted]}), parse({"tables": [slower]}))
    assert (changed.action, changed.table) == ("set_lr", "x.optimizer.lr")


def test_what_only_a_new_start_can_change_says_that_rows_are_lost_and_what_keeps_them():
    (change,) = diff(parse({"carrier": "auto"}), parse({"carrier": "grpc"}))
    assert "loses all rows" in change.reason
    assert "`rowloom export TABLE ROWS.npy --name default`" in change.reason
    assert "`rowloom import ROWS.npy TABLE`" in change.reason


@pytest.mark.parametrize("value", [[], {}, None, 3, "slurm"])
def test_a_launcher_that_is_none_is_refused_whatever_it_is(value):
    with pytest.raises(InvalidConfig, match=r"launcher: must be local or ray, got"):
        parse({"launcher": value})
