"""The Dockerfile of the image that all pods run: Ray's, with rowloom in it."""

from __future__ import annotations

import importlib.metadata
import re

from ...proto.snapshots.stores import LIBRARIES
from .options import Options, own_version, python_here


def dockerfile(options: Options, storage: str | None) -> str:
    """Its text. storage: as the config has it; an object store needs its library."""
    library = LIBRARIES.get((storage or "").partition("://")[0])
    wheel = f"rowloom-{own_version()}-py3-none-any.whl"
    wanted = f'"/tmp/{wheel}[ray]"' + (f" {library}" if library else "")
    return f"""\
# Written by `rowloom render k8s`. In a copy of rowloom's sources, with K8S for the folder of this file:
#   pip wheel --no-deps --wheel-dir K8S . && docker build -t {options.image_here} K8S
FROM rayproject/ray:{options.ray}-{python_here()}
COPY {wheel} constraints.txt /tmp/
RUN pip install --no-cache-dir -c /tmp/constraints.txt {wanted}
USER 1000:100
RUN rowloom --version
"""


def constraints() -> str:
    """The versions of what rowloom needs, as they are here. Ray's own is in the image already."""
    found: list[str] = []
    for requirement in importlib.metadata.requires("rowloom") or ():
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)
        if name and "extra ==" not in requirement:
            found.append(f"{name[0]}=={importlib.metadata.version(name[0])}")
    return "".join(f"{line}\n" for line in sorted(found, key=str.lower))
