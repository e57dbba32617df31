"""Prints pip constraints that hold each direct dependency of the installed rowloom at its lower bound."""

import re
from importlib.metadata import requires

for requirement in requires("rowloom") or []:
    if "extra ==" in requirement:
        continue
    bound = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)
    if bound is None:
        raise SystemExit(
            f"{requirement!r} of pyproject.toml must be name>=version, so that its lower bound is known"
        )
    print("==".join(bound.groups()))
