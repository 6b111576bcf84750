"""What DeepSpeed holds and writes a parameter: the constants of `tapo_core/plan/training.py`, measured.

    .venv/bin/python benchmarks/plan_states.py

For each precision and ZeRO stage, a process of its own makes two optimizer steps on a small model with random weights through
`OpenRlhfTrainer`, one rank on the CPU, and publishes it. Printed: bytes a parameter of all tensors that are alive after the
second step (weights, gradients, optimizer), by dtype, and bytes a parameter on disk of both folders that `publish` writes.
"""

import argparse
import gc
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tapo_core.engines.environment import prepare_environment

prepare_environment()


def measure(dtype: str, stage: int) -> None:
    """One row."""
    import torch

    from tapo_core.config import TokenWeightConfig
    from tapo_core.config_update import OffPolicyConfig, UpdateConfig
    from tapo_core.engines.openrlhf_trainer import OpenRlhfTrainer
    from tapo_core.engines.protocols import PolicyRef, TrainingTrajectory
    from tapo_core.nano.config import NanoConfig
    from tapo_core.nano.model import build_model, count_parameters
    from tapo_core.nano.tokenizer import VOCAB_SIZE, build_tokenizer
    from tapo_core.records import AdvantageGroup

    shape = NanoConfig(hidden_size=512, n_layers=6, n_heads=8, n_kv_heads=2, ffn_size=1536)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = build_model(shape, 0).to(getattr(torch, dtype))
        count = count_parameters(model)
        model.save_pretrained(folder / "model")
        build_tokenizer().save_pretrained(folder / "model")
        del model
        config = UpdateConfig(zero_stage=stage, micro_batch_tokens=256)
        trainer = OpenRlhfTrainer(config, TokenWeightConfig(), dtype, 1.0, 0, folder / "model", OffPolicyConfig())
        trainer.load_policy(PolicyRef("a", folder / "model"))
        draw = random.Random(0)
        tokens = [[draw.randrange(VOCAB_SIZE) for _ in range(24)] for _ in range(4)]
        rows = [
            TrainingTrajectory(
                str(n), AdvantageGroup.ORIGINAL, ids[:8], ids[8:], [-6.0] * 16, 1.0 - 0.5 * n, [1.0] * 16
            )
            for n, ids in enumerate(tokens)
        ]
        for version in "bc":
            trainer.update(rows, 0)
            trainer.publish(folder / version, version)
        gc.collect()
        storages = {}
        for thing in gc.get_objects():
            if isinstance(thing, torch.Tensor):
                storage = thing.untyped_storage()
                storages[storage.data_ptr()] = (str(thing.dtype).removeprefix("torch."), storage.nbytes())
                if thing.grad is not None:
                    grad = thing.grad.untyped_storage()
                    storages[grad.data_ptr()] = (str(thing.grad.dtype).removeprefix("torch."), grad.nbytes())
        held: Counter[str] = Counter()
        for kind, size in storages.values():
            held[kind] += size
        disk = {
            part: sum(file.stat().st_size for file in (folder / "c" / part).rglob("*") if file.is_file())
            for part in ("hf", "deepspeed")
        }
        parts = ", ".join(f"{kind} {size / count:.2f}" for kind, size in held.most_common(2))
        total = sum(held.values()) / count
        print(
            f"{dtype:9s} stage {stage}: {count / 1e6:.1f}M parameters; held {total:5.2f} ({parts}); "
            f"disk: hf {disk['hf'] / count:.2f}, deepspeed {disk['deepspeed'] / count:.2f}",
            flush=True,
        )


def main() -> None:
    """All rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("DTYPE", "STAGE"))
    one = parser.parse_args().one
    if one:
        measure(one[0], int(one[1]))
        return
    for dtype in ("float32", "bfloat16"):
        for stage in range(4):
            subprocess.run([sys.executable, __file__, "--one", dtype, str(stage)], check=True)


if __name__ == "__main__":
    main()
