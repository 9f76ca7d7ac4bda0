"""How MLflow is made to fail while it is in use."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def break_mlflow(database: Path, table: str) -> None:
    """Take a table away: whatever asks for it fails, as it would on a database that is damaged or not there."""
    with sqlite3.connect(database) as connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO gone")
    connection.close()


def mend_mlflow(database: Path, table: str) -> None:
    """Give the table back."""
    with sqlite3.connect(database) as connection:
        connection.execute(f"ALTER TABLE gone RENAME TO {table}")
    connection.close()
