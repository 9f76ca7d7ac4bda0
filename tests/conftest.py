"""What every test stands on: a small real model, telemetry off, nothing outside the test's own folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from evermoe.quiet import silence
from tests.browser import CHROMIUM, Browser, chromium

silence()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # Each its part of the processor: threads of one that wait for those of another are slower than none.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """The address of an empty PostgreSQL schema, dropped afterwards."""
    server = os.environ.get("EVERMOE_TEST_POSTGRES_URL")
    if not server:
        pytest.skip("set EVERMOE_TEST_POSTGRES_URL=postgresql://USER@HOST/NAME to test on PostgreSQL")
    address = sa.make_url(server).set(drivername="postgresql+psycopg")
    schema = f"test_{uuid.uuid4().hex}"
    engine = sa.create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as database:
        database.execute(sa.text(f"CREATE SCHEMA {schema}"))
    try:
        own = address.update_query_dict({"options": f"-csearch_path={schema}"})
        yield own.render_as_string(hide_password=False)
    finally:
        with engine.connect() as database:
            database.execute(sa.text(f"DROP SCHEMA {schema} CASCADE"))
        engine.dispose()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, or a reason why not."""
    if not CHROMIUM:
        pytest.skip("Chromium is not installed (Debian: chromium)")
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, trained model of a thousandth of the size: it tells networks from databases, and little else."""
    from model import Example, MoeConfig, Recipe, train_base

    subjects = {"net.switch": ["vlan", "port", "route", "switch"], "db.sql": ["table", "index", "query", "row"]}
    verbs = ["fix", "add", "remove", "rename", "document", "speed up"]
    examples = [
        Example(f"{verb} the {noun} option", label)
        for label, nouns in subjects.items()
        for noun in nouns
        for verb in verbs
    ]
    config = MoeConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_size=16,
        max_position_embeddings=128,
    )
    recipe = Recipe(epochs=30, batch_size=16, learning_rate=1e-2, text_loss_weight=0.3, seed=1)
    model = train_base(examples, config, max_length=64, recipe=recipe, report=lambda step: None)
    return model.save(tmp_path_factory.mktemp("tiny_model"))
