"""Training on Ray workers, each of which calls `train` like a process of torchrun."""

import os
import tempfile
from pathlib import Path
from typing import Any

from boxwright import ray_cluster
from boxwright.engine.processes import TIMEOUT
from boxwright.engine.train import train
from boxwright.errors import InputError
from boxwright.extras import import_extra


def train_on_ray(address: str, workers: int | None, out: str, **arguments: Any) -> Path:
    """Run `train` on workers of Ray Train, with one GPU each if the cluster has enough, else with one CPU each.

    Args:
        address: Address of the cluster, as in `ray_cluster.session`.
        workers: Number of workers; None for the number of GPUs, or 1 without GPUs.
        out: The run folder, on a file system that all nodes of the cluster share.
        arguments: The other arguments of `train`.

    Raises:
        InputError: As `train`; or the cluster has too few CPUs for this number of workers.
    """
    with ray_cluster.session(address, cpus=None if workers is None else max(workers, os.cpu_count() or 1)) as ray:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        workers = workers or max(gpus, 1)
        if workers > max(gpus, resources.get("CPU", 0)):
            raise InputError(
                f"--ray-workers: found {workers}, the cluster has {resources.get('CPU', 0):g} CPUs and {gpus} GPUs; "
                "lower it"
            )
        ray_cluster.show_log()
        _fit(workers, gpus >= workers, arguments | {"out": out, "folder": str(Path.cwd())})
    return Path(out)


def _fit(workers: int, use_gpu: bool, arguments: dict[str, Any]) -> None:
    """Run `_work` by Ray Train. Raises the InputError of the first worker that has one."""
    ray_train, of_torch = import_extra("ray.train", "ray"), import_extra("ray.train.torch", "ray")
    # Ray's watcher for preempted nodes queries the dashboard, which does not run
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")  # default: 60; nodes may have to start
    with tempfile.TemporaryDirectory() as storage:
        trainer = of_torch.TorchTrainer(
            _work,
            train_loop_config=arguments,
            torch_config=of_torch.TorchConfig(timeout_s=int(TIMEOUT.total_seconds())),
            scaling_config=ray_train.ScalingConfig(num_workers=workers, use_gpu=use_gpu),
            run_config=ray_train.RunConfig(storage_path=storage),
        )
        trainer._register_sigint_handler = lambda controller: None  # it would end this process with status 0 or 1
        try:
            trainer.fit()
        except ray_train.TrainingFailedError as error:
            for failure in getattr(error, "worker_failures", {}).values():
                if isinstance(failure, InputError):
                    raise failure from error
            raise


def _work(arguments: dict[str, Any]) -> None:
    """The training function of each worker."""
    ray_cluster.log_in_worker()
    os.chdir(arguments.pop("folder"))
    train(**arguments)
