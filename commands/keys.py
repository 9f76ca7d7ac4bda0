"""`evermoe keys`: who may use the gateway. Talks to the event database itself: whoever can read that needs no key here."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from commands.home import HOME, JSON
from evermoe.errors import NotReady
from evermoe.settings import use_home

if TYPE_CHECKING:
    from monitoring.keys import ApiKey, Keys

NAME = typer.Option("--name", help="Whose key it is, as the audit will name it: 1 to 64 of a-z, A-Z, 0-9 and . _ @ -")

HELP = "\n\n".join(
    (
        "Say who may use the gateway. As long as no key was ever made it is open to everyone on its own machine, and "
        "does not listen to any other; from the first key on, every request needs one.",
        "A [bold]client[/bold] asks and gives feedback on its own answers. A [bold]reviewer[/bold] sees rollouts, metrics "
        "and the console. An [bold]operator[/bold] sees them too, and moves shares, pauses, promotes and aborts.",
        "Programs send a key as `Authorization: Bearer KEY`, which is what OpenAI's client does with `api_key=KEY`; a "
        "person shows it to the console's sign-in. A new key works, and a revoked one fails, within a second, in every "
        "gateway on this database. More in docs/access.md.",
    )
)
app = typer.Typer(no_args_is_help=True, help=HELP, rich_markup_mode="rich")


@app.command()
def create(
    name: Annotated[str, NAME],
    role: Annotated[str, typer.Option("--role", help="client, reviewer or operator.")],
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Make a key. Its text is printed this once: what is kept of it cannot be turned back."""
    with keys_of(home) as keys:
        first = not keys.exist()
        made = keys.create(name, role, datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(shape(made.key) | {"key": made.text}))
        return
    typer.echo(made.text)
    typer.echo(f"This is {name}'s key, of the role {role}. It is shown this once: keep it now.", err=True)
    if first:
        typer.echo("It is the first key here: from now on, every request to the gateway needs one.", err=True)


@app.command("list")
def list_keys(home: Annotated[Path | None, HOME] = None, as_json: Annotated[bool, JSON] = False) -> None:
    """Every key ever made, without its secret."""
    with keys_of(home) as keys:
        every = keys.all()
    if as_json:
        typer.echo(json.dumps({"keys": [shape(key) for key in every]}))
        return
    if not every:
        typer.echo("no key was made yet: the gateway is open to everyone on this machine, and to nobody else")
        return
    table = Table("name", "role", "id", "made", "revoked", box=None)
    for key in every:
        revoked = f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""
        table.add_row(key.name, key.role, key.id, f"{key.created_at:%Y-%m-%d %H:%M}", revoked)
    Console().print(table)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The key's name, as `evermoe keys list` shows it.")],
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Take a key out of force, for ever. What was signed with it stays signed, and its name is not given again."""
    with keys_of(home) as keys:
        key = keys.revoke(name, datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(shape(key)))
    else:
        typer.echo(f"{name}'s key is revoked; every gateway refuses it within a second")


def refuse_strangers(host: str, events_url: str) -> None:
    """Raise `NotReady` where a gateway on `host` could be reached from elsewhere, and no key was ever made."""
    if on_loopback(host):
        return
    with opened(events_url) as keys:
        if not keys.exist():
            raise NotReady(
                f"anyone who reaches {host} could use this gateway, because no API key was made yet; make one with "
                "`evermoe keys create --role operator --name NAME`, or listen on 127.0.0.1"
            )


def on_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`, an address or a name."""
    try:
        found = {str(address[4][0]) for address in socket.getaddrinfo(host, None)} if host else set()
        return bool(found) and all(ipaddress.ip_address(one).is_loopback for one in found)
    except (OSError, ValueError):  # no address, or a name of none: whoever binds it will say so
        return False


@contextmanager
def keys_of(home: Path | None) -> Iterator[Keys]:
    """The keys of an existing home. Raises `NotReady` where there is none."""
    here = use_home(home)
    here.open_home(create=False)
    if here.database_url is None and not here.home.is_dir():
        raise NotReady(f"there is no home at {here.home}; run `evermoe demo` to make one, or pass --home")
    with opened(here.events_url) as keys:
        yield keys


@contextmanager
def opened(events_url: str) -> Iterator[Keys]:
    """The keys in the event database at that address."""
    from monitoring.keys import Keys
    from monitoring.schema import open_database

    engine = open_database(events_url)
    try:
        yield Keys(engine)
    finally:
        engine.dispose()


def shape(key: ApiKey) -> dict[str, Any]:
    """A key as JSON, without what could help to guess it."""
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "created_at": key.created_at.isoformat(),
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }
