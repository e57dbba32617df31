"""What goes with the logs of a cluster when `rowloom down` removes them."""

from rowloom.deploy.snapshots import kept


def test_logs_that_recover_put_aside_went_with_a_down_that_named_only_snapshots(tmp_path, monkeypatch):
    epoch = tmp_path / "logs/c[1]/epoch-2"  # a name that a pattern would read otherwise
    for name in ("shard-0", "shard-1", "shard-1.lost-1", "shard-0.lost-1"):
        (epoch / name).mkdir(parents=True)
    monkeypatch.setattr(kept, "kept_by", lambda _: "c[1]")
    monkeypatch.setattr(kept, "known_going", lambda _: ["s7"])
    assert kept.known_old_logs(str(tmp_path)) == [f"{epoch}/shard-0.lost-1", f"{epoch}/shard-1.lost-1"]
    assert kept.going_in_words(str(tmp_path)) == (
        "1 snapshot that only keeps its logs short (s7) and 2 old logs that `rowloom recover` put aside "
        f"({epoch}/shard-0.lost-1 and {epoch}/shard-1.lost-1)"
    )
    assert kept.old_logs_named(["a", "b", "c", "d"]) == (
        "4 old logs that `rowloom recover` put aside (the first: a)"
    )
    monkeypatch.setattr(kept, "kept_by", lambda _: "")
    assert kept.known_old_logs(str(tmp_path)) == []
