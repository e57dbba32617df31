"""A server that says that it is up has compiled what first calls need: on a fresh machine they would wait for that."""

import subprocess
import sys

CALLS = """
import sys
import numpy as np
from rowloom.client import SGD, Adagrad, Adam, TableSpec, Zeros
from rowloom.proto import methods
from rowloom.proto.codec import ASSIGN, GRADIENTS, RENORM, Block, PartName, Pull, Push, Step
from rowloom.proto.codec_bags import Entries, PullBags
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry
from rowloom.server.call import LANE, Call, Caller
from rowloom.server.serve import Server
from rowloom.server.shard import Shard
from rowloom.server.states import Serving

layout = Layout("c", 1, (ShardAddress(0, "h:1", 1),))
numbers = iter(range(1, 1000))


def push(table, ids, kind=GRADIENTS, **more):
    block = Block(np.ones((0 if kind == RENORM else len(ids), 2), np.float32), **more)
    n = next(numbers)
    norms = {"max_norm": 1.0, "norm_type": 2.0} if kind == RENORM else {}
    return Push(layout.header(0), 7, (PartName(1, 0, n),), push=n, tables=[(table, ids, block)], kind=kind, **norms)


def calls():
    # Of three ids, of more than an index has places for at first, of ids that repeat.
    for table in range(1, 5):
        for ids in (np.arange(3), np.arange(3000), np.array([4, 4000, 4])):
            pull = Pull(layout.header(0), [(table, ids)])
            for kind in (GRADIENTS, ASSIGN, RENORM):
                yield methods.PUSH, push(table, ids, kind)
            yield methods.PULL, pull
            yield methods.STEP, Step(push(table, ids), pull)
            bags = np.arange(len(ids), dtype=np.int32)
            yield methods.PULL_BAGS, PullBags(layout.header(0), [Entries(table, ids, bags)])
            yield methods.PUSH, push(table, ids, bags=bags)


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
optimizers = [SGD(), SGD(momentum=0.5), Adagrad(), Adam()]
specs = [TableSpec(f"t{n}", 5000, dim=2, optimizer=one, initializer=Zeros()) for n, one in enumerate(optimizers)]
entries = [TableEntry(n + 1, spec) for n, spec in enumerate(specs)]
server._host.state = Serving(Shard(layout, 0, entries))
before = compiled()
for method, message in calls():
    for space in (None, memoryview(bytearray(100_000))):
        if method in (methods.PUSH, methods.STEP) and space is not None:
            continue
        server.answer(Call(method, joined(message.encode()), Caller(LANE), space))
late = compiled() - before
server.stop(0)
assert before
print(sorted(late))
"""


def test_first_calls_of_every_kind_compile_nothing_in_a_server() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALLS], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
