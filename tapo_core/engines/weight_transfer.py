"""Weights sent straight from the trainer's rank 0 to the sampler's replicas on Ray, beside the published files.

What is sent is read from the published checkpoint, so that it is byte for byte what a reader of the files has, whatever ZeRO
stage or adapters the trainer works with; it is read once, not by every replica. The group is of torch.distributed's, apart from
those in which the ranks and vLLM's workers work: NCCL where there are GPUs, gloo where there are none. Member 0 sends; the others
are the replicas' workers, `sampler.tensor_parallel_size` of each.
"""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapo_core.engines.environment import has_gpu
from tapo_core.errors import IntegrityError
from tapo_core.heartbeat import beat

if TYPE_CHECKING:
    import torch

#: Seconds in which the members have to find each other, and in which one tensor has to arrive.
PATIENCE = timedelta(seconds=120)

#: safetensors' names of types and torch's.
_TYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True)
class Member:
    """One process's place in a group."""

    address: str  #: where member 0 waits for the others
    port: int
    number: int
    size: int


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a receiver has to know of a tensor before it comes."""

    name: str
    dtype: str  #: torch's name, such as "bfloat16"
    shape: tuple[int, ...]


def checkpoint_files(checkpoint: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in order of their names.

    Raises:
        IntegrityError: there is none.
    """
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise IntegrityError(f"{checkpoint}: no safetensors file in this checkpoint")
    return files


def headers(checkpoint: Path) -> list[TensorHeader]:
    """Every tensor of a checkpoint, in the order in which `tensors` gives them. Reads no weights.

    Raises:
        IntegrityError: see `checkpoint_files`; or a tensor of a type that no policy is published in.
    """
    from safetensors import safe_open

    found = []
    for file in checkpoint_files(checkpoint):
        with safe_open(file, framework="pt") as opened:
            for name in sorted(opened.keys()):
                piece = opened.get_slice(name)
                if piece.get_dtype() not in _TYPES:
                    raise IntegrityError(
                        f"{file}: {name} is of type {piece.get_dtype()}, not one of {', '.join(_TYPES)}"
                    )
                found.append(TensorHeader(name, _TYPES[piece.get_dtype()], tuple(piece.get_shape())))
    return found


def tensors(checkpoint: Path) -> "Iterator[torch.Tensor]":
    """Every tensor of a checkpoint, one at a time, on the CPU."""
    from safetensors import safe_open

    for file in checkpoint_files(checkpoint):
        with safe_open(file, framework="pt") as opened:
            for name in sorted(opened.keys()):
                yield opened.get_tensor(name)


class WeightGroup:
    """A process's membership. Tensors are broadcast from member 0, on the GPU where there is one."""

    def __init__(self, member: Member, listener: socket.socket | None = None) -> None:
        """Waits for all the others. `listener`: where member 0 waits for them.

        Raises:
            RuntimeError: somebody did not come in time (`PATIENCE`).
        """
        import torch
        import torch.distributed as dist

        self.device = torch.device("cuda", torch.cuda.current_device()) if has_gpu() else torch.device("cpu")
        # A socket that is bound already: the store would listen on every address, and another process could take the port.
        given = {} if listener is None else {"master_listen_fd": listener.detach()}
        store = dist.TCPStore(
            member.address, member.port, member.size, is_master=member.number == 0, timeout=PATIENCE, **given
        )
        self._store = dist.PrefixStore("weights", store)
        self._group: Any
        if has_gpu():
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = PATIENCE
            self._group = dist.ProcessGroupNCCL(self._store, member.number, member.size, options)
        else:
            gloo: Any = dist.ProcessGroupGloo
            options = gloo._Options()
            options._timeout = PATIENCE
            # As this machine is seen from where member 0 is, not by its host name.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((member.address, member.port))
                options._devices = [gloo.create_device(hostname=probe.getsockname()[0])]
            self._group = gloo(self._store, member.number, member.size, options)

    def broadcast(self, tensor: "torch.Tensor") -> None:
        """Send (member 0), or receive into, a contiguous tensor on `device`.

        Raises:
            RuntimeError: somebody is gone.
        """
        import torch.distributed as dist

        options = dist.BroadcastOptions()
        options.rootRank = 0
        self._group.broadcast([tensor], options).wait()


class Sender:
    """Member 0."""

    def __init__(self, address: str) -> None:
        """`address`: of this machine, as the others reach it."""
        self._address = address
        self._listener: socket.socket | None = None
        self._group: WeightGroup | None = None

    def offer(self) -> tuple[str, int]:
        """Give up an earlier group; where the members of a new one find this one."""
        self._group = None
        if self._listener is not None:
            self._listener.close()
        self._listener = socket.create_server((self._address, 0))
        return self._address, int(self._listener.getsockname()[1])

    def join(self, size: int) -> None:
        """Wait for the others."""
        assert self._listener is not None, "offer comes first"
        port = int(self._listener.getsockname()[1])
        self._group = WeightGroup(Member(self._address, port, 0, size), self._listener)
        self._listener = None

    def send(self, checkpoint: Path) -> None:
        """Send a checkpoint's tensors in the order of `headers`. A group in which that failed is left."""
        group, self._group = self._group, None
        assert group is not None, "join comes first"
        for tensor in tensors(checkpoint):
            group.broadcast(tensor.to(group.device).contiguous())
            beat()
        self._group = group  # else it ends here, and members that wait for a tensor learn of it at once


class Receiver:
    """What each of vLLM's workers gets in addition (vLLM's option ``worker_extension_cls``)."""

    def join_weight_group(self, member: Member) -> None:
        """Join a group; `member.number` is that of the replica's first worker."""
        number = member.number + self.parallel_config.rank  # type: ignore[attr-defined]
        self._weight_group = WeightGroup(Member(member.address, member.port, number, member.size))

    def receive_weights(self, expected: Sequence[TensorHeader]) -> None:
        """Take a checkpoint's tensors into the model as they come, by the same way as from files. A group in which that failed
        is left.
        """
        import torch

        group = self._weight_group
        del self._weight_group

        def arriving() -> Iterator[tuple[str, torch.Tensor]]:
            for header in expected:
                tensor = torch.empty(header.shape, dtype=getattr(torch, header.dtype), device=group.device)
                group.broadcast(tensor)
                yield header.name, tensor

        # Not the model's own load_weights: some layers hold weights in another form than checkpoints do.
        self.reload_weights(weights_iterator=arriving())  # type: ignore[attr-defined]
        if group.device.type == "cuda":
            torch.cuda.synchronize()
        self._weight_group = group
