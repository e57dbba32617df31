"""What survives where the config does not say."""

from rowloom.deploy.config.config import from_json, parse


def test_rows_are_kept_where_there_is_a_place_for_logs_and_nobody_says_otherwise() -> None:
    # Storage was set, and the rows were lost with the first process that ended.
    assert parse({"storage": "/x"}).durability == "process"
    assert parse({"storage": "file:///x"}).durability == "process"
    assert parse({"storage": "/x", "durability": "memory"}).durability == "memory"
    assert parse({"storage": "s3://bucket"}).durability == "memory"
    assert parse({"storage": "/x", "launcher": "ray"}).durability == "memory"
    assert parse({}).durability == "memory"
    for value in ({"storage": "/x"}, {"storage": "/x", "durability": "memory"}):
        assert from_json(parse(value).to_json()) == parse(value)
