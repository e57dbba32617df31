"""Rows and gradients that travel rounded: exactly what the wire type rounds to arrives, and nothing overflows."""

import numpy as np
import pytest

from rowloom.client import SGD, Adagrad, Adam, Client, InvalidRequest, Normal, TableSpec, Zeros
from rowloom.client.calls.requests import PullRequest, PushRequest
from rowloom.client.calls.wire_types import refuse_overflow
from rowloom.proto import codec
from rowloom.proto.spec import WIRES, TableEntry

V = 300
ROUNDED = [wire for wire in WIRES if wire != "float32"]
LARGEST = {"bfloat16": 3.3961773e38, "float16": 65519.996, "int8": 3.4028233e38}  # that arrive finite


def rounded(rows, wire: str) -> np.ndarray:
    """What arrives, by the codec, of [N, width] rows."""
    number = codec.WIRE_NUMBER[wire]
    return codec.from_wire(codec.to_wire(np.asarray(rows, np.float32), number), number)


def a_spec(name: str = "t", wire: str = "float32", **more) -> TableSpec:
    return TableSpec(name, V, dim=6, initializer=Normal(std=0.01), wire=wire, **more)


@pytest.fixture
def seen_wires(monkeypatch) -> list[int]:
    """The wire types of the requests that were sent, in order."""
    seen: list[int] = []
    for request in (PullRequest, PushRequest):
        put = request.put

        def spy(self, *arguments, put=put, **more):
            seen.append(self.wire)
            return put(self, *arguments, **more)

        monkeypatch.setattr(request, "put", spy)
    return seen


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("by_call", [False, True])
def test_pulled_rows_are_the_exact_ones_rounded(client: Client, seen_wires, wire: str, by_call: bool) -> None:
    table = client.create_table(a_spec(wire="float32" if by_call else wire))
    ids = np.random.default_rng(0).integers(0, V, (20, 30))
    exact = table.pull(ids, wire="float32")
    seen_wires.clear()
    rows = table.pull(ids, wire=wire) if by_call else table.pull(ids)
    assert set(seen_wires) == {codec.WIRE_NUMBER[wire]}
    np.testing.assert_array_equal(rows, rounded(exact.reshape(-1, 6), wire).reshape(exact.shape))


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("optimizer", [SGD(lr=0.5), Adagrad(lr=0.1), Adam(lr=0.01)])
def test_pushes_equal_an_oracle_that_rounds_the_sums(client: Client, oracle, wire: str, optimizer) -> None:
    spec = a_spec(wire=wire, optimizer=optimizer)
    table = client.create_table(spec)
    oracle.create_table(spec)
    rng = np.random.default_rng(1)
    for k in range(8):
        ids = rng.integers(0, 40, (5, 9))
        grads = rng.normal(size=(5, 9, 6)).astype(np.float32)
        distinct = list(dict.fromkeys(ids.reshape(-1).tolist()))
        sums = np.zeros((len(distinct), 6), np.float32)
        for i, g in zip(ids.reshape(-1), grads.reshape(-1, 6), strict=True):
            sums[distinct.index(i)] += g
        if k % 2:
            client.push({"t": (ids, grads)})
        else:
            table.push_async(ids, grads).result(120)
        oracle["t"].push(distinct, rounded(sums, wire))
    everything = np.arange(V)
    np.testing.assert_array_equal(table.pull(everything, wire="float32"), oracle["t"].pull(everything))


def test_a_call_may_push_as_another_type_than_the_tables(client: Client, oracle) -> None:
    spec = a_spec(wire="int8", optimizer=SGD(lr=1.0))
    table = client.create_table(spec)
    oracle.create_table(spec)
    grads = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32)
    for wire in WIRES:
        table.push([1, 2, 3, 4], grads, wire=wire)
        oracle["t"].push([1, 2, 3, 4], rounded(grads, wire))
    np.testing.assert_array_equal(table.pull(range(6), wire="float32"), oracle["t"].pull(range(6)))


def test_tables_of_different_types_in_one_call(cluster, client: Client, seen_wires, oracle) -> None:
    tables = [a_spec(f"t-{wire}-{k}", wire, optimizer=SGD(lr=1.0)) for wire in WIRES for k in range(2)]
    for spec in tables:
        client.create_table(spec)
        oracle.create_table(spec)
    rng = np.random.default_rng(3)
    ids = {spec.name: rng.permutation(V)[:50] for spec in tables}
    grads = {name: rng.normal(size=(50, 6)).astype(np.float32) for name in ids}
    seen_wires.clear()
    client.push({name: (ids[name], grads[name]) for name in ids})
    assert sorted(seen_wires) == [0, 0, 1, 1, 2, 2, 3, 3], "a request for each shard and type"
    for spec in tables:
        oracle[spec.name].push(ids[spec.name], rounded(grads[spec.name], spec.wire))
    cluster.scale(3)  # parts are routed anew
    seen_wires.clear()
    rows = client.pull(ids)
    assert set(seen_wires) == {0, 1, 2, 3}
    for spec in tables:
        expected = rounded(oracle[spec.name].pull(ids[spec.name]), spec.wire)
        np.testing.assert_array_equal(rows[spec.name], expected)
    rows = client.pull(ids, wire="float32")
    for name in ids:
        np.testing.assert_array_equal(rows[name], oracle[name].pull(ids[name]))


@pytest.mark.parametrize("wire", WIRES)
def test_assigned_and_exported_rows_are_exact(client: Client, tmp_path, wire: str) -> None:
    table = client.create_table(a_spec(wire=wire))
    rows = np.random.default_rng(4).normal(size=(V, 6)).astype(np.float32)
    table.assign(np.arange(V), rows)
    np.testing.assert_array_equal(table.pull(np.arange(V), wire="float32"), rows)
    table.export(tmp_path / "rows.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), rows)


@pytest.mark.parametrize("wire", ROUNDED)
def test_prefetched_rows_travel_as_asked(client: Client, wire: str) -> None:
    table = client.create_table(a_spec())
    expected = rounded(table.pull([3, 4]), wire)
    for _, rows in table.prefetch([[3, 4]] * 3, wire=wire):
        np.testing.assert_array_equal(rows, expected)
    for _, some in client.prefetch([{"t": [3, 4]}], wire=wire):
        np.testing.assert_array_equal(some["t"], expected)


@pytest.mark.parametrize("wire", ROUNDED)
def test_the_largest_gradient_that_arrives_finite_is_known_to_the_bit(wire: str) -> None:
    entry, ids, number = TableEntry(1, a_spec()), np.array([5]), codec.WIRE_NUMBER[wire]
    for bits in np.float32(LARGEST[wire]).view(np.uint32) + np.arange(-3, 4, dtype=np.int64):
        for sign in (0, 1 << 31):
            value = np.uint32(bits | sign).view(np.float32)
            row = np.array([[0, value, 1]], np.float32)
            if np.isfinite(rounded(row, wire)).all():
                refuse_overflow(entry, ids, row, number)
            else:
                with pytest.raises(InvalidRequest, match=f"of id 5 is .* in column 1, which {wire} cannot"):
                    refuse_overflow(entry, ids, row, number)
    largest = np.array([[LARGEST[wire]]], np.float32)
    assert np.isfinite(rounded(largest, wire)).all()
    assert not np.isfinite(rounded(np.nextafter(largest, np.float32(np.inf)), wire)).all()


@pytest.mark.parametrize("wire", ROUNDED)
def test_a_sum_that_cannot_travel_is_refused_and_nothing_changes(
    client: Client, seen_wires, wire: str
) -> None:
    table = client.create_table(a_spec(wire=wire, optimizer=SGD(lr=1.0)))
    before = table.pull(np.arange(V), wire="float32")
    ids = [*range(200), 7]
    grads = np.full((201, 6), 1.0, np.float32)
    half = np.float32(LARGEST[wire]) * np.float32(0.6)  # each of them would arrive, their sum does not
    grads[7, 2] = grads[200, 2] = half
    seen_wires.clear()
    with pytest.raises(InvalidRequest, match=f"the summed gradient of id 7 .* {wire} cannot .*'t'.*float32"):
        table.push(ids, grads)
    assert not seen_wires, "nothing was sent"
    np.testing.assert_array_equal(table.pull(np.arange(V), wire="float32"), before)


def test_a_sum_beyond_float32_is_refused_before_any_shard_has_a_part_of_it(client: Client) -> None:
    table = client.create_table(a_spec(optimizer=SGD(lr=1.0)))
    before = table.pull(np.arange(V))
    with pytest.raises(
        InvalidRequest, match=r"the summed gradient of id 1 is inf in column 0, which float32"
    ):
        table.push([0, 1, 1, 2], np.array([[1], [3e38], [3e38], [1]]) * np.ones(6))
    np.testing.assert_array_equal(table.pull(np.arange(V)), before)


def test_a_row_that_float16_cannot_carry_is_not_served_as_infinite(client: Client) -> None:
    table = client.create_table(TableSpec("t", 10, dim=2, initializer=Zeros()))
    table.assign([3], [[1.0, -7e4]])
    with pytest.raises(InvalidRequest, match="the row of id 3 is -inf in column 1, which float16 cannot"):
        table.pull([1, 3], wire="float16")
    assert table.pull([3], wire="bfloat16")[0, 0] == 1


def test_unknown_types_are_refused_with_the_known_ones(client: Client) -> None:
    table = client.create_table(a_spec())
    for call in (
        lambda: table.pull([1], wire="float8"),
        lambda: table.push([1], np.ones((1, 6)), wire="float8"),
        lambda: client.pull({"t": [1]}, wire="float8"),
        lambda: a_spec(wire="float8"),
    ):
        with pytest.raises(
            InvalidRequest, match="wire must be one of float32, bfloat16, float16, int8, got 'float8'"
        ):
            call()
