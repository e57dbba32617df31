"""What the folders offer is what their __all__ says, and all of it is documented."""

import dataclasses
import importlib
import importlib.metadata
import inspect
import pkgutil
import types

import pytest

FACES = ["rowloom.client", "rowloom.server", "rowloom.deploy"]


def public_names(face: types.ModuleType) -> set[str]:
    """Names without an underscore that are not submodules, as `dir` sees them."""
    return {
        name
        for name in dir(face)
        if not name.startswith("_")
        and not isinstance(getattr(face, name), types.ModuleType)
        and name != "annotations"
    }


@pytest.mark.parametrize("name", FACES)
def test_all_says_exactly_what_a_face_offers(name):
    face = importlib.import_module(name)
    declared = list(getattr(face, "__all__", []))
    assert len(declared) == len(set(declared)), f"{name}.__all__ names something twice"
    missing = [n for n in declared if not hasattr(face, n)]
    assert not missing, f"{name}.__all__ names what is not there"
    assert public_names(face) <= set(declared), f"{name} offers what __all__ does not name"


@pytest.mark.parametrize("name", FACES)
def test_everything_offered_has_a_docstring(name):
    face = importlib.import_module(name)
    for item in getattr(face, "__all__", []):
        value = getattr(face, item)
        if inspect.isclass(value) or inspect.isfunction(value):
            doc = inspect.getdoc(value) or ""
            generated = dataclasses.is_dataclass(value) and doc.startswith(f"{value.__name__}(")
            assert doc, f"{name}.{item} has no docstring"
            assert not generated, f"{name}.{item} has only the docstring that dataclass makes"


def test_a_trainer_finds_everything_it_names_in_the_client():
    client = importlib.import_module("rowloom.client")
    trainer = ["connect", "TableSpec", "SGD", "Adagrad", "Adam"]
    trainer += ["Zeros", "Constant", "Uniform", "Normal", "TruncatedNormal", "TwoSided"]
    trainer += ["RowloomError", "InvalidRequest", "TableNotFound", "TableExists", "Unavailable", "Overloaded"]
    trainer += ["PushUnresolved", "StateLost", "SnapshotCorrupt", "Unauthorized"]
    assert set(trainer) <= set(client.__all__)


@pytest.mark.parametrize("name", ["rowloom.client", "rowloom.deploy"])
def test_a_face_says_which_version_it_is_of(name):
    assert importlib.import_module(name).__version__ == importlib.metadata.version("rowloom")


def test_deploy_offers_the_embedded_cluster_and_the_way_to_find_one():
    deploy = importlib.import_module("rowloom.deploy")
    assert {"local_cluster", "address_of"} <= set(deploy.__all__)


def test_every_error_of_the_contract_is_offered_by_the_client():
    client = importlib.import_module("rowloom.client")
    errors = importlib.import_module("rowloom.proto.errors")
    for cls in vars(errors).values():
        if (
            inspect.isclass(cls)
            and issubclass(cls, errors.RowloomError)
            and not issubclass(cls, errors.Rerouted | errors.NoAnswer)  # what callers never see
        ):
            assert cls.__name__ in client.__all__, f"users cannot catch {cls.__name__}"


@pytest.mark.parametrize("family", ["Optimizer", "Schedule", "Constraint", "Initializer"])
def test_every_recipe_that_a_table_may_name_is_offered_by_the_client(family):
    client = importlib.import_module("rowloom.client")
    recipes = importlib.import_module("rowloom.proto.recipes")
    spec = importlib.import_module("rowloom.proto.spec")
    root = getattr(spec, family)
    members = {root.__name__} | {name for name, cls in recipes.Recipe.kinds.items() if issubclass(cls, root)}
    assert family in members
    forgotten = {face.__name__: members - set(face.__all__) for face in (client, spec)}
    assert not any(forgotten.values()), f"users cannot name {forgotten}"


def test_no_package_is_hidden_by_what_a_face_offers():
    """`rowloom.client.lookup` was a package and a function: `import rowloom.client.lookup.bags` led to the function."""
    for face in map(importlib.import_module, FACES):
        for found in pkgutil.walk_packages(face.__path__, f"{face.__name__}."):
            if found.ispkg and "layers" not in found.name:  # those need their frameworks
                package = importlib.import_module(found.name)
                parent, _, name = found.name.rpartition(".")
                assert getattr(importlib.import_module(parent), name) is package


def test_the_lookups_are_found_where_the_documents_say():
    from rowloom.client import lookup
    from rowloom.client.lookup import lookup as same
    from rowloom.client.lookup import lookup_sparse, push, weighted_sum

    assert lookup is same
    assert all(map(callable, (lookup, lookup_sparse, push, weighted_sum)))
