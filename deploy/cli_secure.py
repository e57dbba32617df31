"""`rowloom secure`: the files that `security` of a deploy config names, and who has which rights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import AsJson, wrong_use
from .terminal import show

secure = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Make certificates and tokens, and change who may do what.",
)
Folder = Annotated[Path, typer.Option("--dir", help="The folder that `rowloom secure init` made.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", help="A name or address that servers are called by; may be repeated."),
]
Days = Annotated[int, typer.Option(min=1, max=3650, help="How long the certificate is good for.")]
LOOPBACK = ["localhost", "127.0.0.1", "::1"]
CLUSTER = "cluster"  # the principal that servers and the command line are


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(secure, name="secure")


@secure.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    host: Hosts = None,
    days: Days = 397,
    name: Annotated[str, typer.Option(help="Of the cluster; stands in the certificates.")] = "rowloom",
    as_json: AsJson = False,
) -> None:
    """Make a private CA, certificates of servers and a client, and the servers' token; print `security:`."""
    from .secure.certificates import Authority, write_pair
    from .secure.private_files import make_private_folder
    from .secure.token_files import add_token

    folder = directory.absolute()
    with wrong_use():
        make_private_folder(folder)
        _check_empty(folder)
        authority = Authority.new(name)
        ca, _ = write_pair(folder, "ca", authority.certificate, authority.key)
        cert, key = authority.give(folder, "server", [*LOOPBACK, *(host or [])], days, server=True)
        client = authority.give(folder, "client", [], days)
        token = folder / f"{CLUSTER}.token"
        add_token(folder / "tokens.yaml", CLUSTER, ["*:*"], token)
    section = {
        "ca": str(ca),
        "cert": str(cert),
        "key": str(key),
        "tokens": str(folder / "tokens.yaml"),
        "token": str(token),
    }
    lines = "".join(f"  {name}: {value}\n" for name, value in section.items())
    called = host[0] if host else "NAME"
    show(
        as_json,
        {"security": section, "client": {"cert": str(client[0]), "key": str(client[1])}},
        f"made in {folder}, for its user only. In the deploy config:\n\nsecurity:\n{lines}"
        f"  # server_name: {called}    on Ray and on Kubernetes, where addresses are not known before; one of --host\n"
        "  # mutual: true               whoever connects needs a certificate too, as client.pem and client.key\n\n"
        "ca.key makes certificates: keep it apart. `rowloom secure token NAME --allow 'pull:*,push:*,create:*' --dir "
        f"{folder}` makes a trainer's token.",
    )


@secure.command()
def token(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    allow: Annotated[
        str | None,
        typer.Option(
            help="Rights, VERB:TABLES with a comma between: pull, push, create, admin or *; users, ads.*, *. `none`: "
            "only see status and metrics."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file it goes to.", show_default="NAME.token in --dir")
    ] = None,
    directory: Folder = Path(),
    as_json: AsJson = False,
) -> None:
    """Give somebody a token. One who is known gets another; the one before goes on to count, those before do not."""
    from .secure.token_files import add_token

    where = (out or directory / f"{name}.token").absolute()
    rights = [part for part in (allow or "").split(",") if part.strip()]
    with wrong_use():
        principal = add_token(directory / "tokens.yaml", name, rights, where)
    has = [str(grant) for grant in principal.grants]
    show(
        as_json,
        {"name": name, "allow": has, "token_file": str(where), "tokens": len(principal.hashes)},
        f"{name} may {', '.join(has) or 'only see status and metrics'}; its token is in {where}, and nowhere else:\n"
        f'    connect(..., token_file="{where}")',
    )


@secure.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Who gets nothing any more.")],
    directory: Folder = Path(),
    as_json: AsJson = False,
) -> None:
    """Take all tokens of somebody away. Running servers refuse them within two seconds."""
    from .secure import token_files

    with wrong_use():
        token_files.revoke(directory / "tokens.yaml", name)
    show(as_json, {"name": name, "revoked": True}, f"{name} has no token any more")


@secure.command()
def certificate(
    name: Annotated[str, typer.Argument(help="Whose it is; NAME.pem and NAME.key are replaced.")],
    server: Annotated[bool, typer.Option("--server", help="For servers; else for clients only.")] = False,
    host: Hosts = None,
    days: Days = 397,
    directory: Folder = Path(),
    as_json: AsJson = False,
) -> None:
    """Make a certificate of the CA in --dir, or renew one. Running servers use a new one within two seconds."""
    from .secure.certificates import Authority

    folder = directory.absolute()
    hosts = [*(LOOPBACK if server else []), *(host or [])]
    with wrong_use():
        authority = Authority.load(folder / "ca.pem", folder / "ca.key")
        cert, key = authority.give(folder, name, hosts, days, server=server)
    show(as_json, {"cert": str(cert), "key": str(key)}, f"{cert} and {key} are good for {days} days")


def _check_empty(folder: Path) -> None:
    from .cli_options import WrongUse

    if any(folder.iterdir()):
        raise WrongUse(f"{folder} is not empty, and nothing in it is overwritten: name a new folder")
