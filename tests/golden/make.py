"""Makes the files in `files/`: what this version of rowloom writes, for later versions to be held to.

    python tests/golden/make.py              # those that are missing
    python tests/golden/make.py --again wire/pull.bin

What is there is left as it is: it was written by a version that people use. `--again` is for a format that no release
has had yet. What the files hold is in `messages.py` and `stored.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.messages import WIRE, described
from golden.stored import (
    PRINCIPALS,
    RECORD,
    STATE,
    VOCABULARY,
    log_segment,
    write_snapshots,
)
from golden.written import FILES
from google.protobuf import descriptor_pb2

from rowloom.deploy.secure.token_files import text_of
from rowloom.proto import rowloom_pb2 as pb


def contract() -> bytes:
    """All messages, fields, enums and RPCs of `rowloom.proto`, without its comments."""
    described = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(described)
    return described.SerializeToString(deterministic=True)


def written() -> dict[str, bytes]:
    """By name below `files/`, what today's code writes."""
    found = {f"wire/{name}.bin": message.encode(message.value) for name, message in WIRE.items()}
    found["wire/describe_layout_reply.bin"] = described().SerializeToString(deterministic=True)
    found["wire/contract.binpb"] = contract()
    found["log/wal-0000000001.log"] = log_segment()[0]
    with tempfile.TemporaryDirectory() as folder:
        write_snapshots(Path(folder))
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                found[f"snapshots/{path.relative_to(folder)}"] = path.read_bytes()
        VOCABULARY.save(Path(folder) / "words.json")
        found["cluster/vocabulary.json"] = (Path(folder) / "words.json").read_bytes()
    found["cluster/layout-with-digest.json"] = STATE.to_json().encode()
    found["cluster/known.json"] = json.dumps(dataclasses.asdict(RECORD)).encode()
    found["cluster/tokens.yaml"] = text_of(PRINCIPALS).encode()
    return found


def main() -> None:
    """Write what is missing, and what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--again", nargs="+", default=[], metavar="FILE", help="also these, though they are there"
    )
    again = set(parser.parse_args().again)
    made = written()
    if unknown := sorted(again - set(made)):
        raise SystemExit(f"no file of that name is made: {', '.join(unknown)}")
    for name, data in made.items():
        path = FILES / name
        if name in again or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
