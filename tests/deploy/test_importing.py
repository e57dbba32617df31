"""What `rowloom import` and `rowloom export` do."""

from types import SimpleNamespace

import numpy as np
import pytest
from memory_client import MemoryClient

from rowloom.client.files import room
from rowloom.client.vocabulary import Vocabulary
from rowloom.deploy import importing
from rowloom.deploy.importing import ImportTarget, check_order, export_file, import_file, parsed
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.spec import SGD, Adagrad, Adam, Constant, Exponential, Optimizer, TableSpec

MADE = ImportTarget(create=True)
ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)


def test_a_file_becomes_a_table_and_a_table_a_file(tmp_path, capfd):
    np.save(tmp_path / "x.npy", ROWS)
    client = MemoryClient()
    done = import_file(
        client,
        tmp_path / "x.npy",
        "t",
        ImportTarget(create=True, optimizer="Adagrad(lr=0.5)", initializer="Constant(value=2)"),
    )
    assert done == {
        "table": "t",
        "path": str(tmp_path / "x.npy"),
        "rows": 6,
        "skipped_words": 0,
        "missing_words": 0,
        "vocabulary": None,
    }
    spec = client.table("t").spec
    assert (spec.optimizer, spec.initializer, spec.frozen) == (Adagrad(lr=0.5), Constant(2), False)
    (tmp_path / "ids.txt").write_text("5\n1\n")
    wanted = export_file(client, "t", tmp_path / "y.npy", ids=tmp_path / "ids.txt")
    assert wanted["rows"] == 2
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), ROWS[[1, 5]])
    out, err = capfd.readouterr()
    assert out == ""
    assert "x.npy into t" in err
    assert "6 rows" in err
    import_file(client, tmp_path / "x.npy", "t", quiet=True)
    assert capfd.readouterr() == ("", "")


def test_words_come_with_their_vocabulary(tmp_path):
    (tmp_path / "x.txt").write_text("a 1 2\nb 3 4\n")
    client = MemoryClient()
    kept = tmp_path / "v.json"
    done = import_file(client, tmp_path / "x.txt", "w", MADE, save_vocabulary=kept, quiet=True)
    assert (done["rows"], done["missing_words"], done["vocabulary"]) == (2, 2, str(kept))
    assert Vocabulary.from_file(kept) == Vocabulary("ab")
    assert export_file(client, "w", tmp_path / "y.vec", vocabulary=kept, quiet=True)["rows"] == 4
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(InvalidRequest, match="has no words; leave --save-vocabulary out"):
        import_file(client, tmp_path / "x.npy", "t", MADE, save_vocabulary=kept, quiet=True)


def test_options_that_do_not_go_together_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    client = MemoryClient()
    with pytest.raises(InvalidRequest, match="--optimizer is for a table that is made here; add --create"):
        import_file(client, tmp_path / "x.npy", "t", ImportTarget(optimizer="SGD"), quiet=True)
    with pytest.raises(InvalidRequest, match="--first-id is for a table that is there, got 3"):
        import_file(client, tmp_path / "x.npy", "t", ImportTarget(create=True, first_id=3), quiet=True)
    (tmp_path / "ids.txt").write_text("5\nx\n")
    with pytest.raises(InvalidRequest, match="must hold integers, one a line"):
        export_file(client, "t", tmp_path / "y.npy", ids=tmp_path / "ids.txt", quiet=True)


def test_recipes_are_written_as_in_python():
    assert parsed("Adagrad") == {"name": "Adagrad"}
    assert parsed("SGD(lr=1, nesterov=True, momentum=9e-1)") == {
        "name": "SGD",
        "lr": 1,
        "nesterov": True,
        "momentum": 0.9,
    }
    for wrong, match in [
        ("SGD(1)", "has no name"),
        ("SGD(lr=1", "write it as"),
        ("SGD(lr=x)", "is no number"),
        ("SGD(lr=None)", "is no number"),
        ("SGD(lr=__import__('os').getpid())", "write it as"),
        ("SGD(lr=1, lr=2)", "twice|write it as"),
        ("SGD(**{'lr': 1})", "has no name"),
        ("SGD()()", "write it as"),
        ("a.SGD()", "write it as"),
        ("", "write it as"),
        ("\0", "write it as"),
    ]:
        with pytest.raises(InvalidRequest, match=match):
            parsed(wrong)


def test_recipes_with_commas_inside_words_and_schedules_are_read_as_torch_users_write_them():
    for text, right in [
        ("Adam(lr=1e-3, betas=(0.9, 0.99))", Adam(lr=1e-3, betas=(0.9, 0.99))),
        ("Adam(betas=[0.9, 0.99], lr=1e-3)", Adam(lr=1e-3, betas=(0.9, 0.99))),
        ('Adam(lr=1e-3, mode="row")', Adam(lr=1e-3, mode="row")),
        (" Adam( lr=1e-3, mode='dense', ) ", Adam(lr=1e-3, mode="dense")),
        ("SGD(lr=Exponential(lr=0.1, decay_steps=7))", SGD(lr=Exponential(lr=0.1, decay_steps=7))),
        ("SGD(lr=-0.0, nesterov=false)", SGD(lr=0.0)),
    ]:
        assert Optimizer.from_mapping(parsed(text)) == right, text


def test_an_option_and_its_value_were_one_word_in_a_message():
    said = importing._reworded(
        "w has 9 rows; from first_id=7 on they end beyond the 10 ids; say first_id= to fill"
    )
    assert said == "w has 9 rows; from --first-id 7 on they end beyond the 10 ids; say --first-id to fill"


def test_an_export_larger_than_the_disk_names_the_option_that_exports_less(tmp_path, monkeypatch):
    client = MemoryClient()
    client.create_table(TableSpec("t", 10, dim=3))
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: SimpleNamespace(total=1 << 40, free=100))
    with pytest.raises(OSError, match="nothing was written: 10 rows take at least 120 bytes") as raised:
        export_file(client, "t", tmp_path / "x.npy", quiet=True)
    assert raised.value.filename == str(tmp_path / "x.npy")
    assert raised.value.strerror.endswith(
        "has 100 bytes free; say --trained for only those rows that were ever pushed to or assigned, or another place"
    )


def test_a_file_and_a_table_that_changed_places_were_called_a_missing_file_or_an_unknown_format(tmp_path):
    rows = str(tmp_path / "rows.npy")
    np.save(rows, ROWS)
    with pytest.raises(InvalidRequest) as refused:
        check_order("users", rows, "import")
    assert str(refused.value) == (
        f"{rows!r} is a file, and a table's name is wanted in its place; the other way round: `rowloom import {rows} "
        "users`"
    )
    with pytest.raises(InvalidRequest, match=r"`rowloom export users new\.npy`"):
        check_order("users", "new.npy", "export")
    check_order(rows, "users", "import")
    check_order(rows, rows, "import")  # a table may be called like a file
    check_order("new.npy", "old.npy", "export")
    check_order("users", "items", "export")
