"""What people do with a client and a table by hand: index, list, look at, freeze, and have a look without touching."""

import contextlib
import io
import pickle
import pydoc

import numpy as np
import pytest
from rich.console import Console

import rowloom.client
from rowloom.client import (
    SGD,
    Client,
    InvalidRequest,
    RowloomError,
    Table,
    TableNotFound,
    TableSpec,
    Vocabulary,
    Zeros,
    connect,
)


@pytest.fixture
def table(client):
    return client.create_table(TableSpec("t", 10, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros()))


@pytest.fixture
def endless(client):
    return client.create_table(TableSpec("endless", None, dim=3, optimizer=SGD(lr=1.0), initializer=Zeros()))


# ------------------------------------------------------------------------------------------------- as an array


def test_a_table_is_indexed_by_ids_as_an_array_by_places(table):
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    table.assign(range(10), rows)
    for ids in (
        3,
        [1, 7],
        np.array([[2, 2], [9, 0]]),
        slice(2, 5),
        slice(None),
        slice(8, 20),
        slice(0, 9, 4),
    ):
        np.testing.assert_array_equal(table[ids], rows[ids])


@pytest.mark.parametrize(
    "ids", [-1, slice(-3, None), slice(None, None, -1), slice(0.5), (1, 2), 10, 0.5, True]
)
def test_an_id_is_no_place_that_may_count_from_the_end(table, ids):
    with pytest.raises(InvalidRequest):
        table[ids]


def test_length_and_shape_are_those_of_the_matrix(table, endless):
    assert (len(table), table.shape, endless.shape) == (10, (10, 2), (None, 3))
    with pytest.raises(TypeError, match=r"open-ended ids, so it has no length; len\(table\.ids\(\)\)"):
        len(endless)
    with pytest.raises(InvalidRequest, match="a slice of them needs an end"):
        endless[5:]
    assert endless[5:7].shape == (2, 3)


def test_a_table_without_ids_or_length_is_true(client, endless):
    assert client.create_table(TableSpec("none", 0, dim=2))
    assert endless


@pytest.mark.parametrize("whole", [list, np.asarray, lambda table: 3 in table])
def test_no_call_for_each_row_is_made_unawares(table, whole):
    with pytest.raises(TypeError, match=r"pull|iterable"):
        whole(table)


# -------------------------------------------------------------------------------------------------- by name, as a list


def test_a_client_gives_its_tables_by_name(client, table, endless):
    assert client["t"].spec == table.spec
    assert ("t" in client, "u" in client, 3 in client) == (True, False, False)
    assert list(client) == client._ipython_key_completions_() == ["endless", "t"]
    with pytest.raises(TableNotFound, match="no table 'u'"):
        client["u"]


def test_tables_are_shown_as_a_table_in_terminals_and_notebooks(client, table, endless):
    endless.freeze()
    tables = client.tables()
    assert [one.name for one in tables] == ["endless", "t"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        Console(width=120).print(tables)
    for text in ("endless", "open-ended", "SGD(lr=1.0", "mod", "frozen", "10"):
        assert text in out.getvalue()
        assert text in tables._repr_html_()
    assert tables._repr_html_().count("<tr>") == 3


def test_what_is_shown_is_text_and_no_markup(client):
    from rowloom.client.listing import Listing

    class Named:
        spec = TableSpec("t", 1, dim=(2, 3), partition="div", wire="bfloat16")

    html = Listing([Named()])._repr_html_()
    assert "<td>2 x 3</td>" in html
    assert "<td>bfloat16</td>" in html
    assert Listing([])._repr_html_().count("<tr>") == 1


@pytest.mark.parametrize("kind", [Client, Table])
def test_tab_completes_public_names_and_help_is_a_screen_of_them(client, table, kind):
    thing = client if kind is Client else table
    names = dir(thing)
    assert not [name for name in names if name.startswith("_") or not hasattr(thing, name)]
    assert not {"pull_entries", "later", "entry"} & set(names)
    assert {"pull", "push"} <= set(names)
    text = pydoc.plain(pydoc.render_doc(thing))
    assert all(name in text for name in names)
    assert len(text.splitlines()) < 40


def test_the_module_completes_what_it_offers():
    assert sorted(dir(rowloom.client)) == sorted([*rowloom.client.__all__, "__version__"])
    assert rowloom.client.__version__[0].isdigit()


# ---------------------------------------------------------------------------------------------------- what is trained


def test_ids_are_those_of_the_rows_that_exist_and_an_export_may_have_only_these(
    client, table, endless, tmp_path
):
    assert table.ids().tolist() == endless.ids().tolist() == []
    table.push([7, 2, 7], np.ones((3, 2)))
    table.assign([0], [[1, 1]])
    table.pull([5])
    many = np.arange(0, 2**62, 2**62 // 300_000, dtype=np.int64)
    endless.push(many, np.ones((len(many), 3)))
    assert table.ids().tolist() == [0, 2, 7]
    np.testing.assert_array_equal(endless.ids(), many)  # more than there is room for in one reply
    assert table.export(tmp_path / "x.npy", ids=table.ids()) == 3
    with pytest.raises(InvalidRequest, match=r"say which to export: .*ids=table\.ids\(\)"):
        endless.export(tmp_path / "y.npy")


def test_ids_are_all_there_after_rows_have_moved(cluster, client, table):
    table.push([1, 2, 3, 8], np.ones((4, 2)))
    cluster.scale(3)
    assert table.ids().tolist() == [1, 2, 3, 8]
    client.drop_table("t")
    with pytest.raises(TableNotFound, match="'t'"):
        table.ids()


# ------------------------------------------------------------------------------------------------ frozen, read-only


def test_a_frozen_table_takes_no_gradients_from_this_client_until_it_is_thawed(cluster, client, table):
    other = client["t"]
    table.freeze()
    for push in (
        lambda: table.push([1], [[1, 1]]),
        lambda: other.push([1], [[1, 1]]),
        lambda: client.push({"t": ([1], [[1, 1]])}),
        lambda: table.step([1], [[1, 1]], [1]),
        lambda: table.push_bags([1], [0], [[1, 1]]),
        lambda: table.push_async([1], [[1, 1]]).result(),
    ):
        with pytest.raises(
            InvalidRequest, match=r"'t' is frozen in this client: .* until thaw\(\) \(assign works\)"
        ):
            push()
    assert table.pull([1]).tolist() == [[0, 0]]
    assert table.spec.frozen
    assert other.spec.frozen
    table.assign([2], [[5, 5]])
    table.set_lr(0.5)
    with cluster.connect() as trainer:
        trainer["t"].push([1], [[1, 1]])
        assert not trainer["t"].spec.frozen
    table.thaw()
    assert not table.spec.frozen
    table.push([1], [[1, 1]])
    assert table.pull([1, 2]).tolist() == [[-1, -1], [5, 5]]


def test_what_was_made_frozen_is_not_thawed_by_one_client(client):
    table = client.from_pretrained(np.ones((2, 2)), "pretrained")
    table.freeze()
    with pytest.raises(InvalidRequest, match=r"was made frozen, for all clients; .* freeze=False"):
        table.thaw()


def test_a_frozen_table_trains_nothing_in_a_backward_pass(client, table):
    from rowloom.client.layers.backward import Backward

    backward = Backward([table])
    number = backward.open()
    backward.hold(number, [np.array([1])], [np.ones((1, 2), np.float32)])
    table.freeze()  # between forward and backward
    backward.push(number)
    table.thaw()
    assert table.pull([1]).tolist() == [[0, 0]]


def test_a_read_only_client_changes_nothing(cluster, client, table, tmp_path):
    table.assign([1], [[1, 2]])
    with connect(cluster.address, read_only=True) as reader:
        mine = reader["t"]
        changes = {
            "push": lambda: mine.push([1], [[1, 1]]),
            "assign": lambda: mine.assign([1], [[1, 1]]),
            "step": lambda: mine.step([1], [[1, 1]], [1]),
            "renorm": lambda: mine.renorm([1], 0.5),
            "push_bags": lambda: mine.push_bags([1], [0], [[1, 1]]),
            "set_lr": lambda: mine.set_lr(0.5),
            "thaw": mine.thaw,
            "create": lambda: reader.create_table(TableSpec("new", 1, dim=1)),
            "drop": lambda: reader.drop_table("t"),
            "snapshot": reader.snapshot,
            "from_pretrained": lambda: reader.from_pretrained(np.ones((1, 1)), "new"),
        }
        for change in changes.values():
            with pytest.raises(
                InvalidRequest, match="this client is read-only: connect without read_only=True"
            ):
                change()
        assert mine.pull([1]).tolist() == [[1, 2]]
        assert mine.spec.frozen
        assert mine.export(tmp_path / "x.npy") == 10
        assert [one.name for one in reader.tables()] == ["t"]
    assert client["t"].spec == table.spec


def test_pickled_clients_stay_read_only_and_their_tables_frozen(cluster, client, table):
    table.freeze()
    table.vocabulary = Vocabulary(["a"])
    copy = pickle.loads(pickle.dumps(table))
    with copy.client, connect(cluster.address, read_only=True) as reader:
        assert copy.spec.frozen
        assert copy.vocabulary == Vocabulary(["a"])
        with pickle.loads(pickle.dumps(reader)) as again, pytest.raises(RowloomError, match="read-only"):
            again["t"].push([1], [[1, 1]])


def test_read_only_is_true_or_false(cluster):
    with pytest.raises(InvalidRequest, match="read_only must be True or False, got 'yes'"):
        connect(cluster.address, read_only="yes")


def test_words_set_on_a_table_must_fit_it(table):
    with pytest.raises(InvalidRequest, match="num_embeddings is 10, the vocabulary has 12 ids"):
        table.vocabulary = Vocabulary(map(str, range(10)))
