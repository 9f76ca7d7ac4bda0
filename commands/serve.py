"""`evermoe serve`: the gateway on its own. Puts the rooms together for one process and decides nothing."""

from __future__ import annotations

import logging
import socket
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from commands.keys import on_loopback, refuse_strangers
from commands.services import tool_url
from commands.up import champion_version
from evermoe.errors import NotReady, without_password
from evermoe.settings import PUBLIC_RATE, Settings, load_params, use_home
from evermoe.words import as_name
from serving.limits import Limits
from serving.router import Deployment, Router
from serving.server import listen, run


def serve(
    home: Annotated[Path | None, typer.Option(help="Where Evermoe keeps its state; without it, EVERMOE_HOME.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; without it, EVERMOE_HOST.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port (0: any free one); without it, EVERMOE_GATEWAY_PORT.")
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Let the header X-Evermoe-At say when a request happened.")
    ] = False,
    rehearse: Annotated[
        str | None,
        typer.Option(
            help="Serve only this version and keep no row of it: the last gate of an update.", metavar="VERSION"
        ),
    ] = None,
) -> None:
    """Serve the registered model: the OpenAI-compatible gateway, feedback, and the rollout console.

    Open to everyone on this machine until the first `evermoe keys create`; other machines are listened to only after it.
    """
    settings = use_home(home)
    settings.open_home(create=False)
    if champion_version(settings) is None:
        raise NotReady(f"{settings.home} has no model to serve: run `evermoe demo`, or `dvc repro` to make a base")
    if rehearse is not None:
        from flows.runtime.parts import open_versions

        open_versions(settings).get(rehearse)
    host = settings.host if host is None else host
    listener = listen(host, settings.gateway_port if port is None else port)
    if rehearse is None:
        serve_on(listener, settings, settings.events_url, replay=replay)
        return
    with tempfile.TemporaryDirectory() as folder:
        serve_on(listener, settings, f"sqlite:///{folder}/events.db", only=rehearse)


def serve_on(
    listener: socket.socket, settings: Settings, events_url: str, replay: bool = False, only: str | None = None
) -> None:
    """Open the parts, serve until told to stop, close the parts. Raises what a part raises when it cannot be opened.

    `only` is the one version to serve, whatever the ledger says.
    """
    refuse_strangers(listener.getsockname()[0], events_url)
    # Imported here: torch and MLflow take seconds, and a port in use or an empty home is told before.
    from flows.runtime.parts import open_versions, policy_of
    from model import LanguageModel, from_pretrained
    from monitoring.events import EventLog
    from registry.actions.controls import Controls
    from registry.assignment import Apart
    from registry.book.ledger import Ledger
    from registry.tracker.runs import Tracking
    from serving.app import create_app
    from serving.console import Links
    from serving.engine import Engine
    from serving.rollouts import Rollouts

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    versions = open_versions(settings)
    tracking = Tracking(settings.tracking_uri, settings.artifacts)

    params = load_params()
    window = timedelta(days=params.feedback.window_days)

    def load(version: str) -> LanguageModel:
        return from_pretrained(versions.weights(version))

    with Ledger(events_url) as ledger, EventLog(events_url, feedback_window=window) as events:
        rollouts = Rollouts(Controls(ledger, versions, tracking), events, policy_of(params))
        engine = Engine(load)
        named = {as_name(unit): arm for unit, arm in params.rollout.overrides.items()}
        apart = Apart(params.rollout.holdout, named)
        router = Router(rollouts.deployment if only is None else lambda: Deployment(only), engine, apart=apart)
        links = Links(mlflow_page(settings), tool_url(settings, settings.prefect_port))
        app = create_app(
            engine=engine,
            router=router,
            events=events,
            rollouts=rollouts,
            links=links,
            limits=limits_of(settings, listener),
            replay=replay,
        )
        run(app, listener, lambda: announce(listener, router))


def limits_of(settings: Settings, listener: socket.socket) -> Limits | None:
    """What each caller may ask of the gateway on `listener`; None without a limit."""
    rate = settings.requests_per_second
    if rate is None:
        rate = 0.0 if on_loopback(listener.getsockname()[0]) else PUBLIC_RATE
    return Limits(rate, settings.requests_burst) if rate else None


def mlflow_page(settings: Settings) -> str:
    """Where MLflow's UI is for a browser: the server we track to, or the one that `evermoe up` starts on our database."""
    if settings.tracking_uri.startswith("http"):
        return without_password(settings.tracking_uri)
    return tool_url(settings, settings.mlflow_port)


def announce(listener: socket.socket, router: Router) -> None:
    """Say where the gateway is and what it serves."""
    host, port = listener.getsockname()[:2]
    state = f"serving version {' and '.join(router.versions)}" if router.versions else f"not ready: {router.problem}"
    address = f"[{host}]" if ":" in host else host
    print(f"evermoe: gateway on http://{address}:{port}, {state}; Ctrl-C stops it", file=sys.stderr, flush=True)
