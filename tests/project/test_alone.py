"""A run of the tests is alone: what else runs on the machine does not change it."""

import os
import tempfile

from rowloom.deploy.operate import local_ray
from rowloom.deploy.operate.directory import ClusterDirectory


def test_a_ray_that_another_run_has_started_on_this_machine_is_not_found(tmp_path, monkeypatch) -> None:
    """Commands of two runs at once once met in the Ray of one of them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(local_ray, "answers", lambda address: True)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379")
    assert local_ray.choose("auto", ClusterDirectory(tmp_path)) is None
    assert "RAY_ADDRESS" not in os.environ
