"""Where dated records come from. `open_stream` brings one of the named streams; nothing here knows what they are used for."""

from __future__ import annotations

from pathlib import Path

from evermoe.errors import BadInput, NotFound
from streams.ansible import open_ansible
from streams.files import Columns, open_file
from streams.git import open_git
from streams.record import Progress, Record, Rejected, Stream, months

__all__ = ["STREAMS", "Columns", "Progress", "Record", "Rejected", "Stream", "months", "open_stream"]

STREAMS = ("ansible", "git", "files")


def open_stream(
    name: str,
    *,
    path: Path | None,
    cache: Path,
    columns: Columns | None = None,
    rejects: Path | None = None,
    progress: Progress | None = None,
) -> Stream:
    """The stream called `name`, its records read.

    `path` is the repository of `git` and the file of `files`; `cache` is where `ansible` keeps what it brings; `columns` and
    `rejects` (where the rows that cannot be used are written) belong to `files`. Raises `NotFound` for another name,
    `BadInput` for what cannot be read, `ServiceUnreachable` when the package index does not answer, `StorageUnavailable`
    when the cache cannot be written.
    """
    if name not in STREAMS:
        raise NotFound(f"no stream is called {name!r}; choose one of {', '.join(STREAMS)}")
    if columns not in (None, Columns()) and name != "files":
        raise BadInput(f"columns are named for the files stream only; {name} has its own")
    if name == "ansible":
        if path is not None:
            raise BadInput(
                f"the ansible stream is brought, not read from a path ({path}); use git or files for your own data"
            )
        return open_ansible(cache, progress=progress)
    if path is None:
        raise BadInput(
            f"the {name} stream needs --path: {'a repository' if name == 'git' else 'a JSONL, CSV or Parquet file'}"
        )
    if name == "git":
        return open_git(path)
    return open_file(path, columns=columns, rejects=rejects, progress=progress)
