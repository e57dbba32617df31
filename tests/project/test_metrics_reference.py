"""docs/metrics.md has every metric, with its kind, its labels and what it says."""

from pathlib import Path

import pytest

from rowloom.deploy.observe import families as of_clusters
from rowloom.server.metrics import families as of_shards
from rowloom.server.metrics import log_lines
from rowloom.server.metrics.counters import MOST_TABLES
from rowloom.server.metrics.families import Family

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
FAMILIES = [*of_shards.FAMILIES, *of_clusters.FAMILIES]


def said() -> dict[str, list[str]]:
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| `rowloom_")]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_every_metric_is_there_and_none_that_is_not():
    assert set(said()) == {family.name for family in FAMILIES}
    assert len(FAMILIES) == len(said())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_kind_labels_and_words_are_those_of_the_code(family: Family):
    histogram = family in of_shards.TIMES.values()
    kind = "histogram" if histogram else "counter" if family.name.endswith("_total") else "gauge"
    labels = ", ".join(f"`{label}`" for label in family.labels) or "-"
    assert said()[family.name] == [kind, labels, family.help]


def test_the_limits_that_it_names_hold():
    assert f"At most {MOST_TABLES} tables" in PAGE
    assert f"{log_lines.FILE_BYTES >> 20} MiB" in PAGE
    assert log_lines.OLDER_FILES == 3
