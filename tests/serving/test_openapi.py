"""Whatever the OpenAPI document allows, and much that it does not, is answered without a fault of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error

from serving.bodies import BODIES
from serving.openapi import document
from tests.serving.conftest import Served

ASKING = ("/v1/chat/completions", "/v1/completions", "/v1/classify", "/v1/feedback")
EXAMPLES = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def clients(postgres_url: str, start: Callable[..., Served]) -> dict[str, httpx.Client]:
    """One who asks and one who steers, at a gateway on PostgreSQL with an open rollout."""
    served = start(database=postgres_url)
    served.open_rollout()
    return dict(zip(("client", "operator"), served.as_("client", "operator"), strict=True))


def statuses_of(operation: Any, key: str) -> set[int]:
    """What the gateway answered to requests that the document allows for this operation; fails at the first 5xx."""
    seen: set[int] = set()

    @EXAMPLES
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        response = case.call(headers={"Authorization": key})
        case.validate_response(response, checks=[not_a_server_error])
        seen.add(response.status_code)

    ask()
    return seen


def test_no_request_is_a_fault_of_ours(clients: dict[str, httpx.Client]) -> None:
    schema = schemathesis.openapi.from_dict(clients["client"].get("/openapi.json").json())
    schema.config.update(base_url=str(clients["client"].base_url))
    keys = {role: http.headers["authorization"] for role, http in clients.items()}
    operations = [found.ok() for found in schema.get_all_operations()]
    statuses = {one.label: statuses_of(one, keys["client" if one.path in ASKING else "operator"]) for one in operations}
    assert statuses.keys() >= {f"POST {path}" for path in ASKING}
    posted = set().union(*(seen for label, seen in statuses.items() if "/v1/" in label))
    assert not {401, 403, 429} & posted  # else nothing was tried
    assert 200 in statuses["POST /v1/completions"] | statuses["POST /v1/classify"]


def test_the_document_says_what_each_post_takes(start: Callable[..., Served]) -> None:
    served = start()
    shape = httpx.get(f"{served.url}/openapi.json").json()
    assert shape == document(served.app)
    assert {kind.__name__ for kind in BODIES} <= set(shape["components"]["schemas"])
    for path in (*ASKING, "/v1/rollouts/{id}/{action}"):
        reference = shape["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert reference.rpartition("/")[2] in shape["components"]["schemas"]
    assert "'$ref': '#/$defs" not in str(shape)
