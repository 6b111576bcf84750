"""OpenRLHF 0.11.2 on any device: what stands between its classes and a machine without CUDA, and nothing else.

OpenRLHF is used as a library: `Actor`, `PolicyLoss` and `DeepspeedStrategy` are its own. On a machine with CUDA and
flash-attn nothing here changes its behaviour.
"""

import argparse
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapo_core.engines.environment import has_gpu, prepare_environment
from tapo_core.engines.logs import set_up_loggers
from tapo_core.engines.protocols import PolicyRef
from tapo_core.errors import IntegrityError, UserError
from tapo_core.ids import tree_digest

if TYPE_CHECKING:
    from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy


def _absent(*_args: Any, **_kwargs: Any) -> Any:
    raise RuntimeError("flash-attn is not installed; packing and ring attention need it")


@contextmanager
def _flash_attn_names() -> Iterator[None]:
    """Let `openrlhf.models.ring_attn_utils` import its five flash-attn names where flash-attn is not installed.

    The stand-ins raise when called, and leave `sys.modules` afterwards so that no other package takes them for flash-attn.
    """
    if importlib.util.find_spec("flash_attn") is not None:
        yield
        return
    names = {
        "flash_attn": (),
        "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
        "flash_attn.utils": (),
        "flash_attn.utils.distributed": ("all_gather",),
    }
    for module_name, functions in names.items():
        module = types.ModuleType(module_name)
        for function in functions:
            setattr(module, function, _absent)
        sys.modules[module_name] = module
    try:
        yield
    finally:
        for module_name in names:
            sys.modules.pop(module_name, None)


def import_openrlhf() -> None:
    """Import OpenRLHF with the shims a CPU machine needs. Calling it again changes nothing."""
    prepare_environment(vllm=False)
    from deepspeed.ops import __compatible_ops__

    if not has_gpu():
        # Its just-in-time build takes 20-50 s and, when killed, leaves a lock that makes the next process wait for ever.
        __compatible_ops__["deepspeed_shm_comm"] = False
    with _flash_attn_names():
        import openrlhf.models.ring_attn_utils  # noqa: F401
        import openrlhf.utils.deepspeed.deepspeed as module
    set_up_loggers()

    if not has_gpu():
        import torch.distributed

        module.torch_dist_barrier_and_cuda_sync = torch.distributed.barrier


def make_strategy(
    zero_stage: int, max_grad_norm: float, dtype: str, seed: int, offload_adam: bool
) -> "DeepspeedStrategy":
    """A `DeepspeedStrategy` with its process group set up: torchrun's ranks where there are some, else one rank here.

    Micro-batches are cut by us (by tokens), so gradient accumulation is left to the caller, as in OpenRLHF's dynamic
    batching: ``train.dynamic_batch_enable``.
    """
    import_openrlhf()
    import deepspeed
    import torch.distributed as dist
    from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy
    from torch.distributed.device_mesh import init_device_mesh

    class Strategy(DeepspeedStrategy):
        def setup_distributed(self, timeout: timedelta = timedelta(minutes=60)) -> None:
            if has_gpu():
                super().setup_distributed(timeout)
                return
            deepspeed.init_distributed(dist_backend="gloo", timeout=timeout, verbose=False)
            self.world_size = dist.get_world_size()
            self.ds_device_mesh = init_device_mesh("cpu", (self.world_size, 1, 1), mesh_dim_names=("dp", "sp", "tp"))
            self.setup_ring_attn(self.ds_device_mesh)
            self.accumulated_gradient = 1

        def get_ds_train_config(self, optim_dict: Any = None, *, max_norm: float | None = None) -> dict[str, Any]:
            ds_config: dict[str, Any] = super().get_ds_train_config(optim_dict, max_norm=max_norm)
            if not has_gpu():
                # DeepSpeed's own CPU Adam is compiled when it is first used; torch's gives the same numbers.
                ds_config["optimizer"]["params"]["torch_adam"] = True
            ds_config["steps_per_print"] = sys.maxsize
            return ds_config

    # DeepSpeed wants all five to be there. No launcher gives port 0: with it, nobody started ranks, neither for us nor for
    # a parent whose environment we have.
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in alone.items():
        os.environ.setdefault(name, value)
    if os.environ["MASTER_PORT"] == "0" and not dist.is_initialized():
        # One rank needs no port to meet others at, which another process might hold, or call.
        dist.init_process_group("nccl" if has_gpu() else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    settings = argparse.Namespace(
        local_rank=int(os.environ["LOCAL_RANK"]),
        ds=argparse.Namespace(
            param_dtype={"float32": "fp32", "bfloat16": "bf16"}[dtype],
            zero_stage=zero_stage,
            adam_offload=offload_adam,
            tensor_parallel_size=1,
        ),
        train=argparse.Namespace(dynamic_batch_enable=True),
    )
    strategy = Strategy(
        seed=seed,
        max_norm=max_grad_norm,
        micro_train_batch_size=1,
        train_batch_size=int(os.environ["WORLD_SIZE"]),
        zero_stage=zero_stage,
        args=settings,
    )
    strategy.setup_distributed()
    return strategy


def check_optimizer(policy: PolicyRef) -> None:
    """See that a policy's DeepSpeed checkpoint is the one we wrote, before anything opens it.

    DeepSpeed's format is torch's, which is pickle inside: its digest has to be the one that the store recorded.

    Raises:
        IntegrityError: the files are not the ones that were written.
    """
    if policy.optimizer is None:
        return
    found = tree_digest(policy.optimizer)
    if found != policy.optimizer_digest:
        raise IntegrityError(
            f"{policy.optimizer}: the optimizer state is not the one that was recorded (digest {found[:12]}, recorded "
            f"{(policy.optimizer_digest or 'none')[:12]}); restore the folder from a backup or fork the run"
        )


def check_zero_stage(folder: Path, zero_stage: int) -> None:
    """See that a ZeRO stage can take the optimizer's state in a DeepSpeed checkpoint: 0, 3, and the others keep it differently.

    Raises:
        UserError: it cannot.
    """
    if list(folder.glob("state/*zero_pp_rank_*_model_states.pt")):
        written: tuple[int, ...] = (3,)
    else:
        written = (1, 2) if list(folder.glob("state/*zero_pp_rank_*_optim_states.pt")) else (0,)
    if zero_stage not in written:
        stages = " or ".join(map(str, written))
        raise UserError(
            f"{folder}: the optimizer state was written with update.zero_stage = {stages}, and {zero_stage} keeps it in another "
            f"form; set update.zero_stage = {written[0]}, or fork the run, which begins with a new optimizer"
        )


#: What a configuration says about each group of an optimizer's parameters, beside the learning rate, which the schedule gives.
_SETTINGS = ("initial_lr", "betas", "weight_decay")


def load_optimizer(engine: Any, folder: Path, n_ranks: int) -> None:
    """Load a DeepSpeed checkpoint (weights, Adam's state, step counts), seen by `check_optimizer`, into an engine.

    The learning rate, its warm-up, Adam's betas and the weight decay stay those that the engine was made with: the checkpoint has
    those of the update before, and a revision of the configuration may have come in between. The schedule counts the optimizer
    steps of the whole run, so a longer warm-up lowers the rate again if the run has not taken as many steps yet.

    Raises:
        UserError: another number of ranks wrote it, each its part; or see `check_zero_stage`.
        IntegrityError: there is none.
    """
    parts = len(list(folder.glob("state/*zero_pp_rank_*_optim_states.pt")))
    if parts and parts != n_ranks:
        raise UserError(
            f"{folder}: the optimizer state was written by {parts} ranks, each its part; set cluster.trainer_ranks = {parts} "
            f"(now {n_ranks}), or fork the run, which begins with a new optimizer"
        )
    check_zero_stage(folder, engine.zero_optimization_stage())
    own = [{name: group[name] for name in _SETTINGS} for group in engine.optimizer.param_groups]
    path, _ = engine.load_checkpoint(str(folder), tag="state")
    if path is None:
        raise IntegrityError(f"{folder}: DeepSpeed found no checkpoint there")
    schedule = engine.lr_scheduler
    schedule.base_lrs = [settings["initial_lr"] for settings in own]
    rates = [
        rate * shape(schedule.last_epoch) for rate, shape in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    schedule._last_lr = rates
    for group, settings, rate in zip(engine.optimizer.param_groups, own, rates, strict=True):
        group.update(settings, lr=rate)
