"""Run a function on several gloo processes with a timeout; an error in one of them ends the test."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _entry(
    rank: int, world: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...], queue: Any
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        queue.put((rank, function(rank, world, *arguments), None))
    except BaseException:
        queue.put((rank, None, traceback.format_exc()))
    finally:
        dist.destroy_process_group()


def run_processes(world: int, function: Callable[..., Any], *arguments: Any, timeout: float = 120) -> list[Any]:
    """Results of ``function(rank, world, *arguments)`` by rank; plain values only (numpy arrays, not tensors)."""
    context = mp.get_context("spawn")
    queue = context.Queue()
    port = free_port()
    workers = [context.Process(target=_entry, args=(r, world, port, function, arguments, queue)) for r in range(world)]
    for worker in workers:
        worker.start()
    try:
        results = [queue.get(timeout=timeout) for _ in workers]
    finally:
        for worker in workers:
            worker.join(timeout=5)
            if worker.is_alive():
                worker.kill()
    errors = [f"rank {rank}:\n{error}" for rank, _, error in results if error]
    assert not errors, "\n".join(errors)
    return [value for _, value, _ in sorted(results, key=lambda r: r[0])]
