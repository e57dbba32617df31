"""Rights on tables that requests name, of methods that every server of the contract answers through one door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ..call import Call, Caller
from .rights import ADMIN, ALL, CREATE

# The message, the verb that it takes, and the table that it names.
_NAMED: dict[str, tuple[type[Any], str, Callable[[Any], str]]] = {
    methods.CREATE_TABLE: (pb.DefineTableRequest, CREATE, lambda request: request.spec.name),
    methods.DROP_TABLE: (pb.RemoveTableRequest, ADMIN, lambda request: request.name),
    methods.SET_LEARNING_RATE: (pb.AdjustTableRequest, ADMIN, lambda request: request.name),
}


def owner_of(caller: Caller) -> str:
    """Whose a table is that somebody creates; empty: the cluster's own, as what operators create is."""
    return "" if caller.rights is None or caller.rights.may(ADMIN, ALL) else caller.principal


def check_call(call: Call) -> None:
    """Whether its caller may call the method, and with the table that it names.

    What does not parse is for the method to refuse: its caller may call it with some table.

    Raises:
        PermissionDenied: it may not.
    """
    rights = call.caller.rights
    if rights is None:
        return
    rights.check_method(call.method)
    if call.method in _NAMED:
        cls, verb, name_of = _NAMED[call.method]
        try:
            request = cls.FromString(bytes(call.data))
        except DecodeError:
            return
        rights.check(verb, name_of(request))
