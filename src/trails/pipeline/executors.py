"""Where workers live: in processes of this machine, or in actors of a Ray cluster. Both run :mod:`trails.pipeline.worker`."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from trails.errors import MissingPackageError, StoreError
from trails.platform.child import Child
from trails.platform.text import whole_number


class Workers(Protocol):
    """A fixed number of workers; each answers one question at a time.

    An answer that cannot come any more (the worker is gone) is an exception of its future, whatever its class. A future may
    also never end: who waits for it must keep a clock.
    """

    size: int
    watch: bool
    """Whether a worker ends itself when the process that asks is gone; where False, the cluster does that."""

    def ask(self, worker: int, request: Mapping[str, Any]) -> Future[Any]:
        """Put a question to the worker of this number, counted from 0."""

    def replace(self, worker: int) -> None:
        """End a worker, whatever it does, and take another of the same number. Its future means nothing then."""

    def close(self) -> None:
        """End all workers."""


class LocalWorkers:
    """Processes of this machine. The cores are divided among them, unless ``OMP_NUM_THREADS`` says otherwise."""

    watch = True

    def __init__(self, size: int) -> None:
        self.size = size
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = {"OMP_NUM_THREADS": str(max(1, cores // size))}
        self._environment = {} if "OMP_NUM_THREADS" in os.environ else threads
        self._children = [self._child() for _ in range(size)]
        self._threads = [self._thread() for _ in range(size)]

    def _child(self) -> Child:
        # one that is started again would have no model open
        return Child("trails.pipeline.worker:answer", self._environment, again=False)

    @staticmethod
    def _thread() -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="trails-worker")

    def ask(self, worker: int, request: Mapping[str, Any]) -> Future[Any]:
        """See :class:`Workers`."""
        return self._threads[worker].submit(self._children[worker].ask, dict(request))

    def replace(self, worker: int) -> None:
        """See :class:`Workers`."""
        self._children[worker].kill()
        self._threads[worker].shutdown(wait=False)
        self._children[worker], self._threads[worker] = self._child(), self._thread()

    def close(self) -> None:
        """See :class:`Workers`."""
        for child in self._children:
            child.kill()
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
        for child in self._children:
            child.close()


class RayWorkers:
    """Actors of a Ray cluster, as many as asked for and never more or fewer: none is started by demand.

    ``address`` is what ``ray.init`` takes: ``auto``, ``HOST:PORT``, ``ray://HOST:PORT``, or ``local`` for a cluster of this
    machine alone. An actor gets a GPU where the cluster has any and ``gpu`` is True, else a core. Ray restarts nothing: who
    died is replaced by :meth:`replace`. Raises MissingPackageError without the extra ``trails[ray]``, StoreError for a cluster
    that cannot be reached.
    """

    watch = False

    def __init__(self, address: str, size: int, *, gpu: bool = True) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingPackageError(
                f"--ray needs the package ray ({error}). Run: pip install 'trails[ray]', here and on every host of the cluster"
            ) from None
        self.size, self._ray = size, ray
        try:
            _reach(address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
        except Exception as error:  # ray has no common class of what it raises here
            raise StoreError(
                f"no Ray cluster answers at {address} ({error}). Start one: ray start --head, or use --ray local"
            ) from error
        from trails.pipeline.worker import Actor

        gpus = 1 if gpu and ray.cluster_resources().get("GPU") else 0
        self._actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0)(Actor)
        self._actors = [self._actor.remote() for _ in range(size)]

    def ask(self, worker: int, request: Mapping[str, Any]) -> Future[Any]:
        """See :class:`Workers`."""
        future: Future[Any] = self._actors[worker].ask.remote(dict(request)).future()
        return future

    def replace(self, worker: int) -> None:
        """See :class:`Workers`."""
        self._ray.kill(self._actors[worker], no_restart=True)
        self._actors[worker] = self._actor.remote()

    def close(self) -> None:
        """See :class:`Workers`."""
        for actor in self._actors:
            self._ray.kill(actor, no_restart=True)
        self._ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError where nothing listens at ``HOST:PORT``: Ray itself asks again for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    number = whole_number(port)
    if colon and number is not None:
        socket.create_connection((host.strip("[]"), number), timeout=10).close()
