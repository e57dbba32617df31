"""Parameters of tests that need what is not installed everywhere."""

import importlib.util

import pytest

PARQUET = pytest.param(
    "x.parquet",
    marks=pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow"),
)
