"""Says what pip-audit found, and what it could not look up: it passes over that in silence.

    pip-audit --format json ... | python .ci/audit.py

Exit codes: 0 all clean, 1 something is vulnerable, 3 nothing is known to be, but something was not checked.
"""

from __future__ import annotations

import json
import sys
from typing import Any

VULNERABLE, UNCHECKED = 1, 3


def read(text: str) -> tuple[list[str], list[str], int]:
    """(what is vulnerable, what was not checked, how much was) of pip-audit's JSON; no JSON: nothing was checked."""
    try:
        found: list[dict[str, Any]] = json.loads(text)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return [], ["anything: pip-audit gave no answer, its service cannot be reached from here"], 0
    vulnerable = [
        f"{one['name']} {one['version']}: {vuln['id']}"
        + (
            f", mended in {', '.join(vuln['fix_versions'])}"
            if vuln.get("fix_versions")
            else ", not mended yet"
        )
        for one in found
        for vuln in one.get("vulns", [])
    ]
    skipped = [f"{one['name']}: {one['skip_reason']}" for one in found if "skip_reason" in one]
    return vulnerable, skipped, len(found) - len(skipped)


def main() -> int:
    """Read stdin, write a report, return the exit code."""
    vulnerable, unchecked, checked = read(sys.stdin.read())
    for line in vulnerable:
        print(f"VULNERABLE: {line}")
    for line in unchecked:
        print(f"NOT CHECKED: {line}")
    print(f"{checked} packages were checked, {len(vulnerable)} vulnerabilities are known")
    return VULNERABLE if vulnerable else UNCHECKED if unchecked or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
