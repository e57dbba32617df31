"""The token that a reader of HTTP pages shows: as programs show it, or as a browser does that has asked a person."""

from __future__ import annotations

import base64

# In this order: a browser passes over what it does not know, and asks for a name and a password by the second.
CHALLENGES = ("Bearer", 'Basic realm="rowloom", charset="UTF-8"')


def token_in_header(authorization: str) -> str:
    """The token of `Bearer TOKEN`, or the password of `Basic ...`, with any name beside it; empty: there is none."""
    scheme, _, said = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return said.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(said.strip(), validate=True).decode("utf-8").partition(":")[2]
    except ValueError:
        return ""
