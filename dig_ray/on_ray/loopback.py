"""Torch's rendezvous on 127.0.0.1, where all workers are on one machine.

The store through which torch's workers find each other listens on every interface, asks for nobody's name, and has no setting for it. On a
Ray that keeps to 127.0.0.1, so does the store that is made here.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from importlib import import_module
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

LOOPBACK = "127.0.0.1"


class LoopbackTorchConfig(TorchConfig):
    """Ray Train's, with workers whose store listens where they are and nowhere else."""

    @property
    def backend_cls(self) -> Any:
        return _LoopbackBackend


class _LoopbackBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(listen_on_loopback)
        super().on_start(worker_group, backend_config)


def listen_on_loopback() -> None:
    """In a worker: make torch's store listen on 127.0.0.1 alone, where that is its address."""
    from torch.distributed import TCPStore

    rendezvous: Any = import_module(
        "torch.distributed.rendezvous"
    )  # torch.distributed has a function of that name
    usual = rendezvous._create_c10d_store

    def create(
        hostname: str, port: int, rank: int, world_size: int, timeout: timedelta, use_libuv: bool = True
    ) -> Any:
        if rank != 0 or hostname != LOOPBACK:
            return usual(hostname, port, rank, world_size, timeout, use_libuv)
        listening = socket.create_server((LOOPBACK, port))
        return TCPStore(
            hostname,
            port,
            world_size,
            True,
            timeout,
            multi_tenant=True,
            master_listen_fd=listening.detach(),
            use_libuv=use_libuv,
        )

    rendezvous._create_c10d_store = create
