"""Where the platform lives and how it is tuned: `EVERMOE_*` from the environment, `params.yaml` for what changes results.

Only `flows/`, `serving/` and `commands/` read this file; the rooms below get plain values from them.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from evermoe.errors import BadInput, HomeTooNew
from evermoe.months import MOST_DAYS

ROOT = Path(__file__).resolve().parent.parent
HOME_FORMAT = 1
STAMP = "home.json"
PUBLIC_RATE = 50.0


class Section(BaseModel):
    """A section of params.yaml; an unknown key is an error, because a misspelt one would be ignored in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StreamParams(Section):
    """Which records; `until` is the first month the base does not see."""

    name: str = "ansible"
    path: str | None = None
    until: str = "2025-06"


class ModelParams(Section):
    """The size of the decoder; see `model/config.py` for what each number means."""

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    experts: int
    experts_per_token: int
    fewest_per_token: int | None = None
    most_per_token: int | None = None
    experts_at_first: int | None = None
    expert_size: int
    shared_expert_size: int
    expert_communication: int = 0
    attention_window: int | None = None
    attention_segment: int = 0
    channel_gate: bool = False
    token_dropout: float = 0.0
    max_length: int


class LessonParams(Section):
    """What every training has: how hard it trains, and how no lesson comes twice alike (`model/variations.py`)."""

    batch_size: int
    learning_rate: float
    text_loss_weight: float
    token_split: float = 0.0
    join_share: float = 0.0
    doubt_share: float = 0.0
    label_smoothing: float = 0.0
    seed: int


class BaseParams(LessonParams):
    """Training of the first model: from nothing, or from a pretrained dense one that is given experts."""

    pretrained: Literal["smollm2"] | None = None
    max_records: int
    epochs: float
    min_steps: int = 0
    most_epochs: float = 32.0


class UpdateParams(LessonParams):
    """The monthly update: incremental training, then distillation. Epochs are passes over the month's rows."""

    domain_share: float
    epochs: int
    distil_epochs: int
    distil_domain_share: float = 0.3
    distil_learning_rate: float
    temperature: float
    averaging_loss: float | None = None
    align_epochs: float
    min_records: int
    min_thumbs: int
    unit_share: float = 1.0
    unit_rows: int = 0


class CheckParams(Section):
    """What a month's rows must pass before they are learned; see `monitoring/checks.py` for what each figure is."""

    label_noise: float
    language: float
    one_unit: float
    min_rows: int
    past_months: int
    known_rows: int


class GateParams(Section):
    """What a challenger must pass before it meets a user. Accuracies are in points (0 to 100)."""

    new_month_gain: float
    past_month_loss: float
    past_average_loss: float
    slice_loss: float = 5.0
    rare_share: float = 0.1
    calibration_error: float
    latency_ratio: float
    memory_ratio: float
    examples_per_month: int
    examples_in_all: int = 2000


Days = Annotated[int, Field(ge=0, le=MOST_DAYS)]


class DriftParams(Section):
    """When a window counts as drifted; see `monitoring/drift.py` for what each score is."""

    window_days: Days
    reference_rows: int
    min_rows: int
    label_distance: float
    text_auc: float
    feature_distance: float
    null_margin: float


class GuardrailParams(Section):
    """What stops a version whatever its rewards say; see `registry/rules/guardrails.py`."""

    alpha: float
    errors: float
    slow: float
    slow_ms: float
    empty: float
    refusals: tuple[str, ...]
    days: float


class RolloutParams(Section):
    """The ramp and the evidence that moves it."""

    alpha: float
    shares: tuple[float, ...]
    min_rewards_per_step: int
    max_days: int
    max_rewards: int
    feedback_days: float
    unnamed_per_key: int = 1000
    guardrails: GuardrailParams
    floor: float = 0.05
    least_move: float = 0.05
    holdout: float = 0.0
    overrides: dict[str, str] = {}


class FeedbackParams(Section):
    """Which feedback is taken."""

    window_days: Days = 90
    """Days after its request."""


class LogParams(Section):
    """How long the event log keeps rows."""

    keep_days: Days = 400
    """Days after its request a row stays in the database in any case; older ones leave it by `evermoe log prune` alone."""


class DemoParams(Section):
    """How the demo's users behave."""

    months: int
    feedback_missing: float
    feedback_delay_days: float
    looks_per_month: int
    seed: int


class Params(Section):
    """params.yaml, whole."""

    stream: StreamParams
    model: ModelParams
    base: BaseParams
    update: UpdateParams
    checks: CheckParams
    gates: GateParams
    drift: DriftParams
    rollout: RolloutParams
    feedback: FeedbackParams = FeedbackParams()
    log: LogParams = LogParams()
    demo: DemoParams


def load_params(path: Path | None = None, base: str | None = None) -> Params:
    """Read params.yaml, with what its section `bases` puts in place for a base of that name; None: the home's base.

    Raises `BadInput` naming the key that is wrong, and for a base that is not there.
    """
    path = path or Path(os.environ.get("EVERMOE_PARAMS", ROOT / "params.yaml"))
    base = base or settings().chosen_base
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        bases = content.pop("bases", {}) if isinstance(content, dict) else {}
        if base is None:
            return Params.model_validate(content)
        if base not in bases:
            raise BadInput(f"{path}: no base is called {base!r}; there are: {', '.join(bases) or 'none'}")
        changed = {name: values | bases[base].get(name, {}) for name, values in content.items()}
        return Params.model_validate(changed)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such parameters file; set EVERMOE_PARAMS or restore params.yaml") from None
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        first = (
            f"{'.'.join(map(str, error.errors()[0]['loc']))}: {error.errors()[0]['msg']}"
            if isinstance(error, ValidationError)
            else str(error).splitlines()[0]
        )
        raise BadInput(f"{path}: {first}") from None


def _user_home() -> Path:
    """Of a user whom the machine does not know, as a container's bare uid, the folder for what is temporary."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(gettempdir())


class Settings(BaseSettings):
    """The environment. Every field is `EVERMOE_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="EVERMOE_", extra="ignore")

    home: Path = Path(".evermoe")
    base: str | None = None
    """The base that a new home begins with, of those in params.yaml; None: trained from nothing."""
    database_url: str | None = None
    mlflow_uri: str | None = None
    host: str = "127.0.0.1"
    gateway_port: int = Field(8000, ge=1, le=65535)
    mlflow_port: int = Field(5000, ge=1, le=65535)
    prefect_port: int = Field(4200, ge=1, le=65535)
    requests_per_second: float | None = Field(None, ge=0)
    """Of each API key, or of each address that shows none. 0: no limit; None: `PUBLIC_RATE` where other machines reach us."""
    requests_burst: int = Field(100, ge=1)
    """How many of them may come at once."""
    cache: Path = Field(default_factory=lambda: _user_home() / ".cache" / "evermoe")
    checkpoint_every: int = Field(50, ge=1)
    """Steps of a training between two checkpoints."""

    @property
    def events_url(self) -> str:
        """SQLAlchemy URL of the event log and the rollout ledger."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'events.db'}"

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking and registry URI."""
        return self.mlflow_uri or f"sqlite:///{self.home.resolve() / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path | None:
        """Where MLflow keeps artifacts; None where a server of the user's says."""
        return None if self.tracking_uri.startswith("http") else self.home.resolve() / "artifacts"

    @property
    def chosen_base(self) -> str | None:
        """The base that the home began with; before there is a home, the one that it would begin with."""
        try:
            return str(json.loads((self.home / STAMP).read_text())["base"])
        except (OSError, ValueError, TypeError):
            return self.base
        except KeyError:
            return None

    def open_home(self, create: bool = True) -> Path:
        """Make the home on first use and check that this version can read it. Raises `HomeTooNew`, `BadInput`."""
        stamp = self.home / STAMP
        try:
            if create:
                self.home.mkdir(parents=True, exist_ok=True)
            if not stamp.exists():
                if create:
                    content = {"format": HOME_FORMAT} | ({"base": self.base} if self.base else {})
                    stamp.write_text(json.dumps(content) + "\n")
                return self.home
            written = json.loads(stamp.read_text())["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{self.home}: not usable as a home ({error}); pass --home or set EVERMOE_HOME") from None
        if written > HOME_FORMAT:
            raise HomeTooNew(
                f"{self.home}: format {written} is newer than this Evermoe reads ({HOME_FORMAT}); upgrade Evermoe"
            )
        return self.home


@cache
def settings() -> Settings:
    """The settings of this process, read once. Raises `BadInput` on a value that does not fit."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"EVERMOE_{str(first['loc'][0]).upper()}: {first['msg']}") from None


def use_home(home: Path | None) -> Settings:
    """Point this process and its children at `home` (None keeps EVERMOE_HOME)."""
    if home is not None:
        os.environ["EVERMOE_HOME"] = str(home.resolve())
    settings.cache_clear()
    return settings()


def use_base(name: str | None) -> None:
    """Let this process and its children begin homes with that base; None keeps EVERMOE_BASE. Raises `BadInput` for no base."""
    if name is not None:
        load_params(base=name)
        os.environ["EVERMOE_BASE"] = name
        settings.cache_clear()
