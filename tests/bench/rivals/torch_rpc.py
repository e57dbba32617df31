"""torch.distributed.rpc: rows in torch tensors of server processes, its own transport (TensorPipe) in between."""

import os
import sys
import warnings

import numpy as np

from rowloom.client import InvalidRequest
from rowloom.deploy.bench.rival import Rival
from rowloom.deploy.launch.processes import end_with_stdin, python

LR, FLOOR = 0.05, 1e-7
THREADS = 8


class TorchRpc(Rival):
    """One process for each server; `torch.unique` before the calls, gradients of equal ids summed by `index_add_`."""

    name = "torch"
    takes_crews = True

    def _start(self) -> None:
        torch = _torch()
        from torch.distributed import rpc

        self.version, self._torch, self._rpc = torch.__version__, torch, rpc
        rank, world, port = self.crew.rank, self.servers + self.crew.trainers, self.crew.ports[0]
        if rank == 0:
            for server in range(self.servers):
                arguments = (server, self.servers, world, port, self.rows, self.dim)
                self._serve(python(__file__, *map(str, arguments)))
        # Number 0 is where all meet; then come the servers, then the other trainers.
        _join(f"trainer{rank}", self.servers + rank if rank else 0, world, port)
        self._stack.callback(rpc.shutdown, graceful=False)

    def pull(self, ids: np.ndarray) -> np.ndarray:
        torch = self._torch
        distinct, inverse, mine = self._split(ids)
        calls = [
            self._rpc.rpc_async(f"server{s}", _pull, (distinct[at] // self.servers,))
            for s, at in enumerate(mine)
        ]
        rows = torch.empty(len(distinct), self.dim)
        for at, call in zip(mine, calls, strict=True):
            rows[at] = call.wait()
        return rows.index_select(0, inverse).numpy()

    def push(self, ids: np.ndarray, grads: np.ndarray) -> None:
        torch = self._torch
        distinct, inverse, mine = self._split(ids)
        sums = torch.zeros(len(distinct), self.dim).index_add_(0, inverse, torch.from_numpy(grads))
        calls = [
            self._rpc.rpc_async(f"server{s}", _push, (distinct[at] // self.servers, sums[at]))
            for s, at in enumerate(mine)
        ]
        for call in calls:
            call.wait()

    def _split(self, ids: np.ndarray):
        torch = self._torch
        distinct, inverse = torch.unique(torch.from_numpy(ids), return_inverse=True)
        shard = distinct % self.servers
        return distinct, inverse, [(shard == s).nonzero().squeeze(1) for s in range(self.servers)]


def _torch():
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    warnings.filterwarnings("ignore", module="torch")
    try:
        import torch
        import torch.distributed.rpc
    except ImportError as e:
        raise InvalidRequest("torch is not installed here: pip install 'rowloom[torch]'") from e
    if not torch.distributed.rpc.is_available():
        raise InvalidRequest(f"torch {torch.__version__} was built without rpc")
    # More threads than cores, in three processes, made every op slower.
    torch.set_num_threads(1)
    return torch


def _join(name: str, rank: int, world: int, port: int) -> None:
    from torch.distributed import rpc

    options = rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=THREADS,
        rpc_timeout=120,
        init_method=f"tcp://127.0.0.1:{port}",
    )
    rpc.init_rpc(name, rank=rank, world_size=world, rpc_backend_options=options)


# What a server holds: rows and Adagrad's sums, [V, dim] float32 tensors.
TABLE: list = []


def _pull(at):
    return TABLE[0].index_select(0, at)


def _push(at, grads) -> None:
    rows, sums = TABLE
    sums.index_add_(0, at, grads * grads)
    rows.index_add_(0, at, grads / (sums.index_select(0, at).sqrt_().add_(FLOOR)), alpha=-LR)


def main() -> None:
    """One server, until stdin closes: `torch_rpc.py INDEX SERVERS WORLD PORT ROWS DIM`."""
    # The trainer names the functions by this module.
    import rivals.torch_rpc as module

    index, servers, world, port, rows, dim = map(int, sys.argv[1:])
    torch = module._torch()
    mine = (rows - index + servers - 1) // servers
    module.TABLE[:] = [torch.ones(mine, dim), torch.full((mine, dim), 0.1)]
    module._join(f"server{index}", index + 1, world, port)
    end_with_stdin()


if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    main()
