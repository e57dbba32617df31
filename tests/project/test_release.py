"""What a release says of known vulnerabilities: `.ci/audit.py`."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def audit():
    spec = spec_from_file_location("audit", ROOT / ".ci/audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("answer", "vulnerable", "unchecked", "checked"),
    [
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', [], [], 1),
        ('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}', [], ["a: not found"], 0),
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}]}',
            ["a 1: X-1, mended in 2"],
            [],
            1,
        ),
        ("", [], ["anything: pip-audit gave no answer, its service cannot be reached from here"], 0),
    ],
)
def test_what_was_not_looked_up_is_not_taken_for_clean(audit, answer, vulnerable, unchecked, checked):
    assert audit.read(answer) == (vulnerable, unchecked, checked)
