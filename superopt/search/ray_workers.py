"""Workers on a Ray cluster: one actor for each core, which Ray places, feeds and watches."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from superopt.errors import NoCluster
from superopt.search.workers import GLANCE, Here, Note, Serial, Task

T = TypeVar("T")
R = TypeVar("R")


class RayWorkers(Serial):
    """Actors on every core of a cluster; address: of a running one, None: started on this machine.

    Tasks and values travel as pickles, so superopt has to be installed in the same version on every
    node. How far a task is is known when it is done. Raises NoCluster.
    """

    remote = True

    def __init__(self, address: str | None = None, actors: int | None = None) -> None:
        super().__init__()
        try:
            import ray
        except ImportError as error:
            raise NoCluster("Ray is not installed", "workers='ray'") from error
        self._ray: Any = ray
        self._started = not ray.is_initialized()
        try:
            if self._started:
                ray.init(
                    address=address,
                    num_cpus=actors if address is None else None,
                    include_dashboard=False if address is None else None,
                    log_to_driver=False,
                    logging_level="error",
                )
            count = actors or int(ray.cluster_resources().get("CPU", 1))
        except Exception as error:
            raise NoCluster(f"no Ray cluster: {error}", f"address {address or 'auto'}") from error
        actor = ray.remote(num_cpus=1)(_Actor)
        self._actors = [actor.remote() for _ in range(max(count, 1))]
        self.count = len(self._actors)

    def tell(self, task: Task, value: Any) -> None:
        """Runs the task on every actor, before whatever is asked for later: calls keep their order."""
        message = self._ray.put(pickle.dumps((task, value)))
        self._settle([a.run.remote(message) for a in self._actors])

    def map(self, task: Callable[[Here, T], R], values: Sequence[T], note: Note) -> list[R]:
        """The values are handed to whichever actor is free, by Ray's pool of actors."""
        from ray.util import ActorPool

        pool = ActorPool(self._actors)
        for value in values:
            pool.submit(
                lambda actor, message: actor.run.remote(message), pickle.dumps((task, value))
            )
        results: list[R] = []
        while pool.has_next():
            try:
                results.append(pickle.loads(pool.get_next(timeout=GLANCE)))
            except TimeoutError:
                note(-1, {})
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except self._ray.exceptions.RayError as error:
                raise self._lost(error) from error
        return results

    def _settle(self, calls: list[Any]) -> None:
        try:
            self._ray.get(calls)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> NoCluster:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return NoCluster(
            f"a worker of the Ray cluster was lost: {first}",
            "workers='ray'",
            "run it again: it goes on from its checkpoint",
        )

    def close(self) -> None:
        """Ends the actors, and the cluster if it was started here."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        if self._started:
            self._ray.shutdown()


class _Actor:
    """What runs on the cluster: tasks, one after another, with what they keep."""

    def __init__(self) -> None:
        self.here = Here()

    def run(self, message: bytes) -> bytes:
        """Runs one task; its result as a pickle."""
        task, value = pickle.loads(message)
        return pickle.dumps(task(self.here, value))
