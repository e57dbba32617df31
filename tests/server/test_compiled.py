"""A server that says that it is up has compiled what first calls need: on a fresh machine they would wait for that."""

import subprocess
import sys

CALLS = """
import sys
import numpy as np
from rowloom.client import SGD, TableSpec
from rowloom.proto import methods
from rowloom.proto.codec import Block, PartName, Pull, Push
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry
from rowloom.server.call import LANE, Call, Caller
from rowloom.server.serve import Server
from rowloom.server.shard import Shard
from rowloom.server.states import Serving

layout = Layout("c", 1, (ShardAddress(0, "h:1", 1),))
ids, grads = np.arange(3), Block(np.ones((3, 2), np.float32))
push = joined(Push(layout.header(0), 7, (PartName(1, 0, 1),), push=1, tables=[(1, ids, grads)]).encode())
pull = joined(Pull(layout.header(0), [(1, ids)]).encode())


def compiled():
    # What has been compiled, or found on disk, for which types.
    kernels = {
        f"{module.__name__}.{name}": one
        for module in list(sys.modules.values())
        if module.__name__.startswith("rowloom.")
        for name, one in vars(module).items()
        if hasattr(one, "signatures") and hasattr(one, "py_func")
    }
    return {(name, str(signature)) for name, one in kernels.items() for signature in one.signatures}


server = Server(carrier="grpc")
server.start()
server._host.state = Serving(Shard(layout, 0, [TableEntry(1, TableSpec("t", 100, dim=2, optimizer=SGD()))]))
before = compiled()
server.answer(Call(methods.PUSH, push, Caller(LANE)))
server.answer(Call(methods.PULL, pull, Caller(LANE), memoryview(bytearray(1000))))
late = compiled() - before
server.stop(0)
assert before
print(sorted(late))
"""


def test_a_first_pull_and_a_first_push_compile_nothing_in_a_server() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALLS], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
