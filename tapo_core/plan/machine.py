"""The machine that a run is planned for."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """A kind of GPU."""

    memory_gib: float  #: what its driver reports, rounded down
    bf16_tflops: float | None  #: dense peak on the maker's data sheet; None: not known, and no time is estimated


#: Names for --gpu. Memory and peaks are from data sheets; we measured none of them.
GPUS = {
    "A10-24": Gpu(22, 125),
    "A100-40": Gpu(39, 312),
    "A100-80": Gpu(79, 312),
    "H100-80": Gpu(79, 989),
    "H200-141": Gpu(139, 989),
    "L4-24": Gpu(22, 121),
    "L40S-48": Gpu(44, 362),
    "RTX4090-24": Gpu(23, 165),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is. Without GPUs everything is in the host's memory."""

    name: str
    gpu: Gpu | None
    gpus: int = 0
    gpus_per_node: int = 8
    host_gib: float | None = None  #: memory of a node; None: not known, and not checked
    disk_free_gib: float | None = None  #: where run.output_dir is; None: not known, and not checked

    @property
    def nodes(self) -> int:
        """Nodes that the GPUs are in."""
        return max(1, -(-self.gpus // self.gpus_per_node))
