"""What the tools we use are told before they are imported: nothing to others, nothing to the terminal that went well, and no
idle spinning on a core that another of our processes could use.

Every name is a default: a value that the user has set stays.
"""

from __future__ import annotations

import os

QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what goes wrong is raised as well, and told in one line
    "TQDM_DISABLE": "1",  # their progress bars; ours are Rich's
    # torch's threads spin while they wait for each other, by default for so long that two trainings on two cores take eight
    # times as long as one; at 1000 turns one alone is as fast, and two take three times as long
    "GOMP_SPINCOUNT": "1000",
}
HERE = ("127.0.0.1", "localhost", "::1")
"""Our programs ask each other on this machine, which is no proxy's business."""


def silence() -> None:
    """Set the defaults for this process and its children. Call it before the tools are imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("NO_PROXY", "no_proxy"):
        named = [one for one in os.environ.get(name, "").split(",") if one]
        os.environ[name] = ",".join(dict.fromkeys([*named, *HERE]))
