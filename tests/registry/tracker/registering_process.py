"""A process that registers a folder as the version of 2025-06 and prints its number: URI ARTIFACTS FOLDER LOADER."""

import sys
from pathlib import Path

from evermoe.quiet import silence

silence()

from registry.tracker.versions import Versions  # noqa: E402  # telemetry is off first

uri, artifacts, folder, loader = sys.argv[1:]
made = Versions(uri, artifacts=Path(artifacts)).register(
    Path(folder), month="2025-06", parent=None, run_id=None, loader=Path(loader), description=""
)
print(made.version)
