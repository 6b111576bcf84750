"""A Ray cluster for a run's engines: joined or started, and a place for each engine in it."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tapo_core.config_cluster import ClusterConfig
from tapo_core.errors import TransientError, UserError
from tapo_core.heartbeat import beat, forward_beats

#: Of a GPU, what each of two engines that share it counts as. Ray only counts; memory is divided by the engines' own settings.
_HALF = 0.5

_LISTEN_SECONDS = 10.0  #: between two questions whether engines in other processes made progress


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, which Ray replaces by its own when it starts."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


class Pulse:
    """An actor that counts the signs of progress (`heartbeat`) of a run's engines, which are in other processes than the run."""

    def __init__(self) -> None:
        self._count = 0

    def beat(self) -> None:
        """Some engine made progress."""
        self._count += 1

    def count(self) -> int:
        """How often that was."""
        return self._count


def beat_for(pulse: Any) -> None:
    """From now on, tell a `Pulse` of the progress that this process makes."""
    forward_beats(lambda: pulse.beat.remote())


def _listen(pulse: Any, left: threading.Event) -> None:
    """The progress of the engines is this process's progress."""
    seen = 0
    while not left.wait(_LISTEN_SECONDS):
        try:
            count = ray.get(pulse.count.remote())
        except RayError:
            return  # the cluster is being left
        if count != seen:
            seen = count
            beat()


class RayCluster:
    """The Ray of one run, with places for `sampler_replicas` samplers and `trainer_ranks` ranks, held until `close`."""

    def __init__(self, config: ClusterConfig, tensor_parallel_size: int) -> None:
        """Nothing is started yet. `tensor_parallel_size`: GPUs of each sampler."""
        self.config = config
        self._gpus_each = tensor_parallel_size
        self._started_here = False
        self._joined = False
        self._has_gpus = False
        self.group: Any = None  #: the placement group
        self.pulse: Any = None  #: the actor that engines call at progress
        self._left = threading.Event()  #: set when the listener to `pulse` may end

    def start(self) -> None:
        """Join or start Ray, and take the places. A second call does nothing.

        Raises:
            UserError: the cluster can never have what is asked for, or nobody answers at its address.
            TransientError: it had not got it in cluster.start_minutes.
        """
        if self.group is not None:
            return
        self._join()
        n_gpus = int(ray.cluster_resources().get("GPU", 0))
        self._has_gpus = n_gpus > 0
        bundles = self._bundles()
        group = placement_group(bundles, strategy="PACK")
        if not group.wait(60.0 * self.config.start_minutes):
            remove_placement_group(group)
            total = {name: sum(b.get(name, 0) for b in bundles) for name in ("GPU", "CPU")}
            there = {name: int(ray.cluster_resources().get(name, 0)) for name in total}
            raise TransientError(
                f"the Ray cluster has {there['GPU']} GPUs and {there['CPU']} processors, and {total['GPU']} and "
                f"{total['CPU']} were not free within cluster.start_minutes = {self.config.start_minutes:g}; start more "
                "nodes, or lower cluster.sampler_replicas or cluster.trainer_ranks"
            )
        self.group = group
        remote: Any = ray.remote(Pulse)
        self.pulse = remote.options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        self._left = threading.Event()
        threading.Thread(target=_listen, args=(self.pulse, self._left), name="tapo-pulse", daemon=True).start()

    def _join(self) -> None:
        if ray.is_initialized():
            return
        local = self.config.address == "local"
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "namespace": "tapo"}
        if local:
            # The switch by which Ray stays on loopback; on Linux it is off by default. Ray reads it when it is imported.
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
            ray_constants.ENABLE_RAY_CLUSTER = False
            os.environ.setdefault("RAY_worker_niceness", "0")  # engines are the work, nothing to be done beside it
            # Ray counts a processor for each engine, however few there are.
            options |= {"include_dashboard": False, "num_cpus": max(self.config.bundles, os.cpu_count() or 1)}
        try:
            with _own_sigterm():
                ray.init(address=self.config.address, **options)
        except ConnectionError as error:
            raise UserError(
                f"no Ray answers at cluster.address = {self.config.address!r} ({error}); start one with "
                '"ray start --head", or set "local"'
            ) from error
        self._joined = True
        if local and ray.util.get_node_ip_address() != "127.0.0.1":
            self.close()
            raise RuntimeError("Ray would listen beyond this machine; start it yourself and set cluster.address")

    def _bundles(self) -> list[dict[str, int]]:
        config, each = self.config, self._gpus_each
        if not self._has_gpus:
            return [{"CPU": 1} for _ in range(config.bundles)]
        if config.placement == "disjoint":
            return [{"GPU": 1, "CPU": 1}] * config.trainer_ranks + [{"GPU": each, "CPU": 1}] * config.sampler_replicas
        if each > 1:
            raise UserError(
                f'sampler.tensor_parallel_size = {each} needs cluster.placement = "disjoint": a sampler that shares its '
                "GPU with a trainer's rank is on one GPU"
            )
        return [{"GPU": 1, "CPU": 2}] * config.bundles

    def sampler_options(self, replica: int) -> dict[str, Any]:
        """Options of the actor that holds a sampler."""
        disjoint = self.config.placement == "disjoint"
        place = self.config.trainer_ranks + replica if disjoint else replica
        gpus = (self._gpus_each if disjoint else _HALF) if self._has_gpus else 0
        return self._options(place) | {"num_gpus": gpus, "num_cpus": 0}

    @property
    def gpus_of_a_rank(self) -> float:
        """What Ray counts for a rank of the trainer."""
        if not self._has_gpus:
            return 0
        return 1 if self.config.placement == "disjoint" else _HALF

    def _options(self, bundle: int) -> dict[str, Any]:
        return {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                placement_group=self.group, placement_group_bundle_index=bundle
            ),
            "max_restarts": 0,  # an engine that died is started by us, who know what it has to hold
        }

    def close(self) -> None:
        """Give the places back, and leave Ray; one that was started here ends."""
        self._left.set()
        if self.pulse is not None and ray.is_initialized():
            ray.kill(self.pulse)
        self.pulse = None
        if self.group is not None:
            remove_placement_group(self.group)
            self.group = None
        if self._joined:
            ray.shutdown()
            self._joined = False
