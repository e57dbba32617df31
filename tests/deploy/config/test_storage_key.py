"""Where `storage` is, as a config file says it."""

import json

import pytest

from rowloom.deploy.config.config import InvalidConfig, from_json, load, parse


@pytest.mark.parametrize(
    ("written", "begins"),
    [("kept", "shop/kept"), ("../kept", "kept"), ("/var/kept", "/var/kept"), ("~/kept", "home/kept")],
)
def test_a_relative_storage_was_another_one_from_another_folder(tmp_path, monkeypatch, written, begins):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/deploy.yaml").write_text(f"storage: {written}\n")
    for folder, path in ((tmp_path, "shop/deploy.yaml"), (tmp_path / "shop", "deploy.yaml")):
        monkeypatch.chdir(folder)
        assert load(path).storage == str(tmp_path / begins)


def test_a_storage_with_a_protocol_stays_as_it_is_written(tmp_path):
    (tmp_path / "deploy.yaml").write_text("storage: file:///var/kept\n")
    assert load(tmp_path / "deploy.yaml").storage == "file:///var/kept"


@pytest.mark.parametrize("launcher", ["local", "ray"])
def test_a_storage_in_the_memory_of_each_process_was_taken_and_nothing_was_there(tmp_path, launcher):
    file = tmp_path / "deploy.yaml"
    file.write_text(f"launcher: {launcher}\nstorage: memory://x\n")
    with pytest.raises(
        InvalidConfig, match=r"2: storage.*is memory of one process.*such as s3://bucket/folder, stays"
    ):
        load(file)


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("file://", "must name a place, such as /var/lib/rowloom, behind file://"),
        ("file://var/kept", "must name a place, such as /var/kept, behind file://"),
        ("s3://", "must name a place, such as bucket/folder, behind s3://"),
        ("s3:/bucket/ads", "needs two slashes: s3://"),
    ],
)
def test_a_storage_that_names_no_place_was_taken_for_a_folder(tmp_path, storage, words):
    file = tmp_path / "deploy.yaml"
    file.write_text(f"storage: {storage}\n")
    with pytest.raises(InvalidConfig, match=rf"storage: {words}, got "):
        load(file)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (
            {"storage": "s3://AK:se/cret@bucket/x"},
            r"storage: is s3://AK:...@bucket/x, .*AWS_SECRET_ACCESS_KEY",
        ),
        ({"storage": "ftp://:secret@h"}, r"storage: is ftp://:...@h"),
        ({"storage": "simplecache::ftp://u:9secret@h"}, r"storage: is simplecache::ftp://u:...@h"),
        (
            {"storage": "ftp://u:secret@h", "durability": "disk"},
            "where logs are synced, which ftp://u:...@h is not",
        ),
        ({"tracing": {"otlp_endpoint": "https://u:secret@h:4318"}}, "https://u:...@h:4318, .*OTEL_EXPORTER"),
    ],
)
def test_a_password_in_a_url_was_taken_and_shown_by_the_status_and_ray(given, shown):
    with pytest.raises(InvalidConfig, match=shown) as caught:
        parse({"name": "ads"} | given)
    assert "cret@" not in str(caught.value)


def test_what_is_no_password_is_taken_and_what_runs_with_one_goes_on():
    for url in ("s3://bucket/a:b@c", "ftp://user@h/x", "http://h:9000/a@b", "http://u@h:9000/x"):
        assert parse({"name": "ads", "storage": url}).storage == url
    stored = parse({"name": "ads"}).to_mapping() | {"storage": "ftp://u:secret@h"}
    assert from_json(json.dumps(stored)).storage == "ftp://u:secret@h"
