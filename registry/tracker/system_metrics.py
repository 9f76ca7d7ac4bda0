"""What a training does to its machine, as MLflow's own system metrics on its run: processor, memory, disk, network, GPU.

MLflow's monitor is a thread that reads counters every few seconds. It is told its run and its server, so it needs no global
active run. psutil, which it reads them with, comes with DVC and accelerate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

SECONDS_BETWEEN = 5.0
FIRST_SECONDS = 0.5


class _Monitor(SystemMetricsMonitor):
    """As MLflow's, with a true first reading, and a last one: else a training of three seconds would leave none."""

    def monitor(self) -> None:
        """The thread's work."""
        psutil.cpu_percent()  # a thread's first reading of the processor is always 0
        self._shutdown_event.wait(FIRST_SECONDS)
        super().monitor()

    def finish(self) -> None:
        """End the thread; send what it read and has not sent."""
        super().finish()
        metrics = self.aggregate_metrics()
        if metrics:
            self.publish_metrics(metrics)
            self.mlflow_logger.flush()


@contextmanager
def watching(run_id: str, tracking_uri: str) -> Iterator[None]:
    """Watch the machine for as long as it lasts; a run that goes on after a kill goes on with its curves."""
    monitor = _Monitor(run_id, sampling_interval=SECONDS_BETWEEN, resume_logging=True, tracking_uri=tracking_uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
