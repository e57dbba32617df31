"""What every cluster must do, however it is launched: one test class, inherited by each kind of cluster."""

import itertools
import threading

import numpy as np
import pytest
from waiting import until

from rowloom.client import (
    SGD,
    Adagrad,
    Adam,
    Client,
    Constant,
    InvalidRequest,
    Normal,
    TableExists,
    TableNotFound,
    TableSpec,
    TruncatedNormal,
    Uniform,
    Zeros,
)

OPTIMIZERS = [SGD(lr=0.5), Adagrad(lr=0.1), Adam(lr=0.01), Adagrad(lr=0.2, eps=1e-6, initial_accumulator=0.1)]
INITIALIZERS = [
    Zeros(),
    Constant(0.5),
    Uniform(-1, 1, seed=3),
    Normal(std=0.1, seed=4),
    TruncatedNormal(seed=5),
]
_MADE = itertools.count()


def random_spec(rng: np.random.Generator, name: str) -> TableSpec:
    """A table of any kind."""
    open_ended = rng.random() < 0.2
    partition = "mod" if open_ended or rng.random() < 0.5 else "div"
    return TableSpec(
        name,
        num_embeddings=None if open_ended else int(rng.choice([1, 3, 50, 1000, 10**9])),
        dim=[1, 3, 8, (2, 3), ()][rng.integers(5)],
        partition=partition,
        optimizer=OPTIMIZERS[rng.integers(len(OPTIMIZERS))],
        initializer=INITIALIZERS[rng.integers(len(INITIALIZERS))],
        hash_ids=bool(partition == "mod" and rng.random() < 0.3),
    )


def random_ids(rng: np.random.Generator, spec: TableSpec) -> np.ndarray:
    """Ids of any shape, few enough that they meet again."""
    shape = [(), (0,), (7,), (3, 4), (2, 3, 2), (40,)][rng.integers(6)]
    pool = (
        rng.integers(0, spec.id_limit, 30)
        if rng.random() < 0.3
        else rng.integers(0, min(spec.id_limit, 30), 30)
    )
    dtypes = [d for d in (np.int64, np.int32, np.uint64, np.int16) if pool.max() <= np.iinfo(d).max]
    dtype = dtypes[rng.integers(len(dtypes))]
    return rng.choice(pool, shape).astype(dtype)


class Contract:
    """Inherit it and give a fixture `cluster` with `.connect()`, `.address` and `.scale(n)`."""

    STEPS = 60
    MOST_SHARDS = 7  # less where each one takes a second to start
    CARRIER = "auto"

    @pytest.fixture
    def client(self, cluster):
        with cluster.connect(carrier=self.CARRIER) as client:
            yield client

    @pytest.mark.parametrize("seed", range(3))
    def test_a_random_history_equals_the_oracle_bit_for_bit(
        self, cluster, client: Client, seed: int, oracle
    ) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(self.STEPS):
            names = list(oracle.tables)
            action = rng.choice(
                ["create", "pull", "push", "step", "many", "assign", "lr", "scale", "drop"],
                p=[0.08, 0.25, 0.2, 0.14, 0.12, 0.08, 0.04, 0.06, 0.03],
            )
            if action == "create" or not names:
                spec = random_spec(rng, f"h{seed}-{next(_MADE)}")  # of a run that failed tables may be left
                client.create_table(spec)
                oracle.create_table(spec)
                continue
            name = names[rng.integers(len(names))]
            table, expected = client.table(name), oracle[name]
            ids = random_ids(rng, expected.spec)
            values = rng.normal(size=ids.shape + expected.spec.row_shape).astype(np.float32)
            if action == "pull":
                np.testing.assert_array_equal(table.pull(ids), expected.pull(ids))
            elif action == "push":
                table.push(ids, values)
                expected.push(ids, values)
            elif action == "step":
                wanted = random_ids(rng, expected.spec)
                expected.push(ids, values)
                np.testing.assert_array_equal(table.step(ids, values, wanted), expected.pull(wanted))
            elif action == "many":
                self._many(rng, client, oracle)
            elif action == "assign":
                table.assign(ids, values)
                expected.assign(ids, values)
            elif action == "lr":
                expected.lr = float(np.float32(rng.uniform(0.01, 0.5)))
                table.set_lr(expected.lr)
            elif action == "scale":
                cluster.scale(int(rng.integers(1, self.MOST_SHARDS + 1)))
            elif len(names) > 1:
                client.drop_table(name)
                oracle.drop_table(name)
        self._check_all(rng, client, oracle)
        for name in list(oracle.tables):
            client.drop_table(name)

    @staticmethod
    def _many(rng, client: Client, oracle) -> None:
        grads = {}
        for name, expected in oracle.tables.items():
            ids = random_ids(rng, expected.spec)
            g = rng.normal(size=ids.shape + expected.spec.row_shape).astype(np.float32)
            grads[name] = (ids, g)
            expected.push(ids, g)
        wanted = {name: ids for name, (ids, _) in grads.items()}
        if rng.random() < 0.5:
            rows = client.step(grads, wanted)
        else:
            client.push(grads)
            rows = client.pull(wanted)
        for name, (ids, _) in grads.items():
            np.testing.assert_array_equal(rows[name], oracle[name].pull(ids))

    @staticmethod
    def _check_all(rng, client: Client, oracle) -> None:
        for name, expected in oracle.tables.items():
            ids = np.array([*expected.rows, *random_ids(rng, expected.spec).reshape(-1).tolist()], np.int64)
            np.testing.assert_array_equal(client.table(name).pull(ids), expected.pull(ids))

    def test_a_step_of_many_chunks_pulls_what_it_pushed(self, client: Client) -> None:
        """Megabytes both ways at once: neither side may wait for the other to read."""
        spec = TableSpec("step-order", 100_000, dim=64, optimizer=SGD(lr=1.0), initializer=Zeros())
        table = client.create_table(spec)
        rng = np.random.default_rng(1)
        for n in (10, 3_000, 60_000):
            ids = rng.permutation(100_000)[:n]
            grads = rng.integers(-9, 9, (n, 64)).astype(np.float32)
            before = table.pull(ids)
            np.testing.assert_array_equal(table.step(ids, grads, ids[::-1]), (before - grads)[::-1])
        client.drop_table("step-order")

    def test_rows_come_back_in_the_callers_order_through_many_chunks(self, client: Client) -> None:
        spec = TableSpec("order", 300_000, dim=64, optimizer=SGD(lr=1.0), initializer=Zeros())
        table = client.create_table(spec)
        rng = np.random.default_rng(0)
        ids = rng.integers(0, 300_000, (50, 1000))
        distinct = np.unique(ids)
        table.assign(distinct, np.repeat(distinct[:, None].astype(np.float32), 64, 1))
        rows = table.pull(ids)
        np.testing.assert_array_equal(rows, np.repeat(ids[..., None].astype(np.float32), 64, 2))
        client.drop_table("order")

    def test_async_pushes_are_applied_in_order(self, client: Client, oracle) -> None:
        spec = TableSpec("async", 100, dim=4, optimizer=Adagrad(lr=0.1), initializer=Zeros())
        table = client.create_table(spec)
        oracle.create_table(spec)
        rng = np.random.default_rng(1)
        pending = []
        for _ in range(20):
            ids, grads = rng.integers(0, 100, 30), rng.normal(size=(30, 4)).astype(np.float32)
            pending.append(table.push_async(ids, grads))
            oracle["async"].push(ids, grads)
        for p in pending:
            p.result(120)
        np.testing.assert_array_equal(
            table.pull_async(np.arange(100)).result(120), oracle["async"].pull(np.arange(100))
        )
        client.drop_table("async")

    def test_pushes_wait_and_none_is_lost_while_rows_move(self, cluster, client: Client) -> None:
        spec = TableSpec("moving", 1000, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())
        table = client.create_table(spec)
        pushed, stop, errors = [0], threading.Event(), []

        def train() -> None:
            try:
                while not stop.is_set():
                    table.push(np.arange(1000), np.full((1000, 2), -1, np.float32))
                    pushed[0] += 1
                    assert table.pull([5])[0, 0] == pushed[0]
            except Exception as e:
                errors.append(e)

        thread = threading.Thread(target=train)
        thread.start()
        for shards in (3, 1, 4, 2):
            cluster.scale(shards)
            until(lambda: pushed[0] or errors)
        stop.set()
        thread.join()
        assert not errors
        np.testing.assert_array_equal(table.pull(np.arange(1000)), np.full((1000, 2), pushed[0], np.float32))
        client.drop_table("moving")

    def test_bad_input_is_refused_with_its_value_and_changes_nothing(self, client: Client) -> None:
        spec = TableSpec("bad", 10, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())
        table = client.create_table(spec)
        table.push([1], [[1, 1]])
        before = table.pull(np.arange(10))
        for ids, grads, message in [
            ([10], [[1, 1]], r"ids\[0\] is 10, table 'bad' has ids in \[0, 10\)"),
            ([1, -3], [[1, 1], [1, 1]], r"ids\[1\] is -3"),
            ([1.5], [[1, 1]], "ids must be integers, got float64"),
            ([1], [[1, 1, 1]], r"grads must have shape \(1, 2\).*got \(1, 3\)"),
            ([1, 2], [[1, 1]], r"grads must have shape \(2, 2\)"),
            ([1, 2], [[1, 1], [1, float("nan")]], "grads of id 2 .*nan in column 1"),
            ([3], [[float("inf"), 1]], "grads of id 3 .*inf in column 0"),
            ([3], [["a", "b"]], "grads must be numbers"),
        ]:
            with pytest.raises(InvalidRequest, match=message):
                table.push(ids, grads)
        with pytest.raises(ValueError, match=r"ids\[1, 0\] is 99"):
            table.pull([[1], [99]])
        with pytest.raises(TableExists, match="the table that exists has dim=2; you asked for dim=3"):
            client.create_table(TableSpec("bad", 10, dim=3, optimizer=SGD(lr=1.0), initializer=Zeros()))
        with pytest.raises(TableNotFound, match="no table 'absent'"):
            client.table("absent")
        np.testing.assert_array_equal(table.pull(np.arange(10)), before)
        client.drop_table("bad")
        with pytest.raises(TableNotFound, match="'bad' was dropped"):
            table.pull([1])
