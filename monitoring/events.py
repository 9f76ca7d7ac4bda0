"""The event log: every request with its answer, and every feedback, kept once and never acknowledged before it is durable.

This is the room's front: it writes through `monitoring/writer.py` and answers the questions that the other rooms ask of the
log. It knows nothing of HTTP, of models or of how an experiment judges the rewards it hands out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from heapq import merge
from types import TracebackType
from typing import Any, Self, overload

from sqlalchemy import and_, case, func, literal, or_, select

from evermoe.errors import NotFound, StorageUnavailable
from monitoring.database import storage_errors
from monitoring.rows import (
    CLIENT_LEFT,
    Answered,
    Counts,
    Feedback,
    FirstRequest,
    Met,
    Receipt,
    Request,
    Reward,
    Row,
    Units,
)
from monitoring.schema import FAILED, feedback, open_database, requests
from monitoring.writer import Writer, request_of

__all__ = [
    "CLIENT_LEFT",
    "Answered",
    "Counts",
    "EventLog",
    "Feedback",
    "FirstRequest",
    "Met",
    "Receipt",
    "Request",
    "Reward",
    "Units",
]


class EventLog:
    """The log at `url` (`sqlite:///FILE` or `postgresql://USER@HOST/NAME`), its tables made on first use.

    Safe to use from many threads, and several processes may open the same log. Raises on opening: `BadInput` for an
    address we do not understand, `StorageUnavailable` for a database that does not answer or is damaged, `HomeTooNew` for
    one that a newer version wrote. `queue_limit` bounds the rows that may wait for the disk, `batch_limit` the rows of one
    transaction. Feedback later than `feedback_window` after its request is refused; None takes it for ever.
    """

    def __init__(
        self,
        url: str,
        *,
        queue_limit: int = 10_000,
        batch_limit: int = 500,
        feedback_window: timedelta | None = None,
    ) -> None:
        self.engine = open_database(url)
        self._writer = Writer(
            self.engine, queue_limit=queue_limit, batch_limit=batch_limit, feedback_window=feedback_window
        )

    def close(self) -> None:
        """Write what is queued and let the database go. Appending afterwards fails."""
        self._writer.close()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def queue_depth(self) -> int:
        """Rows that wait for their transaction."""
        return self._writer.depth

    @overload
    def append(self, row: Request) -> Future[None]: ...
    @overload
    def append(self, row: Feedback) -> Future[Receipt]: ...
    def append(self, row: Row) -> Future[Any]:
        """Queue `row`; the future is resolved once it is durable. It never raises here: the future carries the error.

        A request with an id that is there already is the same request, sent again, or `Conflict`. Feedback on a response
        that is not there, or that another API key received, is `NotFound`; with a key that is there already it is not
        counted (`Conflict` if that key was for another response); after its window it is `Expired`. `StorageUnavailable`
        means that nothing was acknowledged: append the same row again.
        """
        return self._writer.append(row)

    @overload
    def record(self, row: Request, *, timeout: float = ...) -> None: ...
    @overload
    def record(self, row: Feedback, *, timeout: float = ...) -> Receipt: ...
    def record(self, row: Row, *, timeout: float = 60.0) -> Receipt | None:
        """`append`, and wait until it is durable. After `timeout` seconds: `StorageUnavailable`, its outcome unknown."""
        future = self._writer.append(row)
        try:
            result: Receipt | None = future.result(timeout)
        except TimeoutError:
            raise StorageUnavailable(f"the event log did not confirm a row within {timeout:g} s; try again") from None
        return result

    def request(self, identifier: str) -> Request:
        """The request of that id. Raises `NotFound`."""
        with storage_errors(self.engine), self.engine.connect() as connection:
            found = connection.execute(select(requests).where(requests.c.id == identifier)).one_or_none()
        if found is None:
            raise NotFound(f"no response has the id {identifier}")
        return request_of(found)

    def rewards(self, rollout: str) -> list[Reward]:
        """What the answers of `rollout` were worth: the first feedback of each response, and 0 for each that failed.

        A failure is a loss of its arm: nobody can rate it, and an arm that fails on hard requests would be judged by the easy
        ones. It counts from the moment of its request, so feedback on what there was of the answer comes second and changes
        nothing. A client that left in mid-stream is no failure (`CLIENT_LEFT`), nor one whose stop string left nothing.

        In order of arrival: feedback as it was stored, whatever its times say, and each failure before the first feedback
        that is later than its request; at the same moment the feedback comes first.
        """
        fields = (
            requests.c.id,
            requests.c.unit,
            requests.c.unit_given,
            requests.c.arm,
            requests.c.version,
            requests.c.propensity,
        )
        told_query = (
            select(
                *fields,
                feedback.c.reward,
                requests.c.at,
                feedback.c.at.label("feedback_at"),
                case((requests.c.shadow == requests.c.output, True), else_=False).label("agreed"),
                requests.c.shares,
                requests.c.api_key,
            )
            .join_from(requests, feedback, feedback.c.response_id == requests.c.id)
            .where(requests.c.rollout == rollout, feedback.c.counted, ~FAILED)
            .order_by(feedback.c.sequence)
        )
        failed_query = (
            select(
                *fields,
                literal(0.0),
                requests.c.at,
                requests.c.at,
                literal(False),
                requests.c.shares,
                requests.c.api_key,
            )
            .where(requests.c.rollout == rollout, FAILED)
            .order_by(requests.c.at, requests.c.id)
        )
        with storage_errors(self.engine), self.engine.connect() as connection:
            told = [Reward(*found) for found in connection.execute(told_query)]
            failed = [Reward(*found) for found in connection.execute(failed_query)]
        return list(merge(told, failed, key=lambda one: one.at))

    def first_requests(self, rollout: str, slow_ms: float, refusals: Sequence[str] = ()) -> list[FirstRequest]:
        """The first request of each unit that a rollout met, by time. An answer that begins with one of `refusals` is empty."""
        return self._firsts(requests.c.rollout == rollout, slow_ms, refusals)

    def first_requests_of_version(
        self, version: str, since: datetime, until: datetime, slow_ms: float, refusals: Sequence[str] = ()
    ) -> list[FirstRequest]:
        """The first request of each unit that a version answered in [`since`, `until`), by time; pinned ones are left out."""
        met = and_(requests.c.version == version, requests.c.arm != "pinned")
        return self._firsts(and_(met, requests.c.at >= since, requests.c.at < until), slow_ms, refusals)

    def units(self, rollout: str) -> Units:
        """The units that a rollout met, and of those that met several arms, each arm with the chances at which it was met.

        What is wrong with a move is `registry.rules.signals.crossed`'s to say. The many whose move one challenger's share explains
        are left out here, because a ramp moves up to half of the units and all of their rows would be read at every look:
        whoever met the challenger lies below its share, and whoever met the champion at another lies above that. So this is a
        sieve: it may hand out too much, never too little, and a test holds the two together.
        """
        drawn = and_(
            requests.c.rollout == rollout,
            or_(requests.c.arm.in_(("champion", "challenger")), requests.c.arm.like("challenger:%")),
        )
        per_unit = (
            select(
                requests.c.unit,
                func.min(case((requests.c.arm == "challenger", requests.c.propensity))).label("below"),
                func.max(case((requests.c.arm == "champion", 1.0 - requests.c.propensity))).label("above"),
                and_(func.count(requests.c.shares) > 0, func.min(requests.c.arm) < func.max(requests.c.arm)).label(
                    "several"
                ),
            )
            .where(drawn)
            .group_by(requests.c.unit)
            .subquery()
        )
        moved = select(per_unit.c.unit).where(or_(per_unit.c.below <= per_unit.c.above + 1e-9, per_unit.c.several))
        met = (requests.c.unit, requests.c.arm, requests.c.propensity, requests.c.shares)
        found: dict[str, list[Met]] = defaultdict(list)
        with storage_errors(self.engine), self.engine.connect() as connection:
            count = connection.scalar(select(func.count()).select_from(per_unit)) or 0
            for unit, *one in connection.execute(select(*met).where(drawn, requests.c.unit.in_(moved)).distinct()):
                found[unit].append(Met(*one))
        return Units(count, tuple(map(tuple, found.values())))

    def answered(self, since: datetime, until: datetime, known_by: datetime) -> list[Answered]:
        """Requests of [`since`, `until`) by time, each with the feedback that had arrived by `known_by`."""
        query = _with_feedback(_counted.c.at <= known_by, _labelled.c.at <= known_by)
        return self._answered(query.where(requests.c.at >= since, requests.c.at < until))

    def told(self, since: datetime, until: datetime) -> list[Answered]:
        """Requests that users judged in [`since`, `until`), whenever asked: by their counted feedback, or by their label.

        A label is told in the window in which it arrived, and in no other: none falls between months, none is in two.
        """
        heard = select(feedback.c.response_id).where(
            feedback.c.at >= since,
            feedback.c.at < until,
            or_(feedback.c.counted, feedback.c.sequence.in_(_first_labels)),
        )
        query = _with_feedback(_counted.c.at < until, and_(_labelled.c.at >= since, _labelled.c.at < until))
        return self._answered(query.where(requests.c.id.in_(heard)))

    def counts(self) -> Counts:
        """How many rows the log has."""
        query = select(
            select(func.count()).select_from(requests).scalar_subquery(),
            select(func.count()).select_from(feedback).scalar_subquery(),
        )
        with storage_errors(self.engine), self.engine.connect() as connection:
            return Counts(*connection.execute(query).one())

    def _firsts(self, where: Any, slow_ms: float, refusals: Sequence[str]) -> list[FirstRequest]:
        turn = func.row_number().over(partition_by=requests.c.unit, order_by=(requests.c.at, requests.c.id))
        words = func.replace(func.lower(func.trim(requests.c.output, SPACE)), "\u2019", "'")
        refused = [words.startswith(start.lower().replace("\u2019", "'"), autoescape=True) for start in refusals]
        turns = select(
            requests.c.at,
            requests.c.id,
            requests.c.arm,
            requests.c.version,
            requests.c.propensity,
            requests.c.shares,
            case((FAILED, True), else_=False).label("failed"),
            case((requests.c.latency_ms > slow_ms, True), else_=False).label("slow"),
            case((and_(requests.c.error.is_(None), or_(words == "", *refused)), True), else_=False).label("empty"),
            turn.label("turn"),
        ).where(where)
        ranked = turns.subquery()
        query = select(*(ranked.c[name] for name in FirstRequest.__dataclass_fields__)).where(ranked.c.turn == 1)
        with storage_errors(self.engine), self.engine.connect() as connection:
            return [FirstRequest(*found) for found in connection.execute(query.order_by(ranked.c.at, ranked.c.id))]

    def _answered(self, query: Any) -> list[Answered]:
        with storage_errors(self.engine), self.engine.connect() as connection:
            return [
                Answered(request_of(found), found.label, found.reward, found.feedback_at)
                for found in connection.execute(query)
            ]


SPACE = " \t\n\r\v\f\u00a0\u200b\u3000\ufeff"
"""What says nothing, by itself and before other words."""
_counted = feedback.alias("counted")
_labelled = feedback.alias("labelled")
_first_labels = (
    select(func.min(feedback.c.sequence)).where(feedback.c.label.is_not(None)).group_by(feedback.c.response_id)
)


def _with_feedback(counted_known: Any, label_known: Any) -> Any:
    """Requests by time, with the reward of the counted feedback and the label of the first feedback that has one.

    They may be two: a user who turns a thumb down often says only later what would have been right.
    """
    counted = and_(_counted.c.response_id == requests.c.id, _counted.c.counted, counted_known)
    labelled = and_(_labelled.c.response_id == requests.c.id, _labelled.c.sequence.in_(_first_labels), label_known)
    return (
        select(
            requests,
            _labelled.c.label,
            _counted.c.reward,
            func.coalesce(_labelled.c.at, _counted.c.at).label("feedback_at"),
        )
        .join_from(requests, _counted, counted, isouter=True)
        .join(_labelled, labelled, isouter=True)
        .order_by(requests.c.at, requests.c.id)
    )
