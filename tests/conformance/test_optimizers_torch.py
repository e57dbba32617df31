"""Our optimizers beside torch.optim, over 1,000 random sparse steps."""

import pytest
from sparse_steps import DIM, Ours, V, assert_alike, steps, summed

from rowloom.proto.spec import SGD, Adadelta, Adagrad, Adam, AdamW, RMSprop

torch = pytest.importorskip("torch")

# torch takes sparse gradients for these.
SPARSE = [
    (SGD(0.1), "SGD", {"lr": 0.1}),
    (SGD(0.005, momentum=0.9, mode="dense"), "SGD", {"lr": 0.005, "momentum": 0.9}),
    (Adagrad(0.1), "Adagrad", {"lr": 0.1}),
    (
        Adagrad(0.1, lr_decay=0.01, initial_accumulator=0.2),
        "Adagrad",
        {"lr": 0.1, "lr_decay": 0.01, "initial_accumulator_value": 0.2},
    ),
    (Adam(0.01), "SparseAdam", {"lr": 0.01}),
    (Adam(0.01, betas=(0.5, 0.9), eps=1e-3), "SparseAdam", {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3}),
]
# For these it wants dense ones: zeros where no row was named.
DENSE = [
    (
        SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01, mode="dense"),
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ),
    (SGD(0.05, weight_decay=0.01, mode="dense"), "SGD", {"lr": 0.05, "weight_decay": 0.01}),
    (AdamW(mode="dense"), "AdamW", {}),
    (AdamW(weight_decay=0.3, mode="dense"), "AdamW", {"weight_decay": 0.3}),
    (AdamW(weight_decay=0.0, mode="dense"), "Adam", {}),
    (RMSprop(0.01, mode="dense"), "RMSprop", {"lr": 0.01}),
    (RMSprop(0.001, momentum=0.8, mode="dense"), "RMSprop", {"lr": 0.001, "momentum": 0.8}),
    (Adadelta(mode="dense"), "Adadelta", {}),
    (Adadelta(0.5, rho=0.8, eps=1e-5, mode="dense"), "Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-5}),
]


def trained_by_torch(name: str, arguments: dict, sparse: bool):
    torch.set_num_threads(1)
    # A sparse momentum buffer has an entry for each gradient ever seen; torch adds them one by one, and it shows.
    dtype = torch.float64 if sparse else torch.float32
    weight = torch.nn.Parameter(torch.from_numpy(Ours(SGD()).rows()).to(dtype))
    optimizer = getattr(torch.optim, name)([weight], **arguments)
    for ids, grads in steps():
        if sparse:
            rows = torch.from_numpy(ids).unsqueeze(0)
            with torch.sparse.check_sparse_tensor_invariants(enable=False):  # says so, or torch warns
                weight.grad = torch.sparse_coo_tensor(rows, torch.from_numpy(grads).to(dtype), (V, DIM))
        else:
            weight.grad = torch.from_numpy(summed(ids, grads))
        optimizer.step()
    return weight.detach().numpy()


@pytest.mark.parametrize(("ours", "name", "arguments"), SPARSE, ids=lambda x: repr(x))
def test_sparse_gradients_train_as_in_torch(ours, name: str, arguments: dict) -> None:
    assert_alike(Ours(ours).train(), trained_by_torch(name, arguments, sparse=True))


@pytest.mark.parametrize(("ours", "name", "arguments"), DENSE, ids=lambda x: repr(x))
def test_dense_modes_train_as_torch_does_with_dense_gradients(ours, name: str, arguments: dict) -> None:
    assert_alike(Ours(ours).train(), trained_by_torch(name, arguments, sparse=False))


@pytest.mark.parametrize("cls", [SGD, Adagrad, AdamW, RMSprop, Adadelta])
def test_defaults_are_those_of_torch(cls) -> None:
    ours = vars(cls())
    theirs = getattr(torch.optim, cls.__name__)([torch.nn.Parameter(torch.zeros(1))]).defaults
    names = {"initial_accumulator": "initial_accumulator_value"}
    for name, value in ours.items():
        if name != "mode":
            assert value == theirs[names.get(name, name)], name


def test_adam_has_the_defaults_of_sparse_adam() -> None:
    theirs = torch.optim.SparseAdam([torch.nn.Parameter(torch.zeros(1))]).defaults
    assert {k: v for k, v in vars(Adam()).items() if k != "mode"} == {
        k: theirs[k] for k in ("lr", "betas", "eps")
    }
