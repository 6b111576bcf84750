"""The sizes of a model, and its parameters, counted exactly."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapo_core.config import NANO, TapoConfig
from tapo_core.engines.positions import positions
from tapo_core.errors import UserError

#: Published sizes (config.json on the Hugging Face Hub): hidden, layers, heads, key-value heads, feed-forward, tied embeddings.
#: All have heads of 128, a vocabulary of 151,936 and 40,960 positions. tests/plan/test_shape.py builds them with transformers.
PUBLISHED = {
    "Qwen3-0.6B": (1024, 28, 16, 8, 3072, True),
    "Qwen3-1.7B": (2048, 28, 16, 8, 6144, True),
    "Qwen3-4B": (2560, 36, 32, 8, 9728, True),
    "Qwen3-8B": (4096, 36, 32, 8, 12288, False),
    "Qwen3-14B": (5120, 40, 40, 8, 17408, False),
    "Qwen3-32B": (5120, 64, 64, 8, 25600, False),
}
_PUBLISHED_NAME = re.compile(r"Qwen3-(0\.6|1\.7|4|8|14|32)B(?:-Base)?$", re.IGNORECASE)
#: The built-in model's vocabulary and heads: `nano.tokenizer.VOCAB_SIZE` and `nano.model.HEAD_DIM`, which need torch to import.
_NANO_VOCABULARY, _NANO_HEAD, _NANO_POSITIONS = 512, 32, 1024
_TYPES = ("qwen3", "qwen2", "llama", "mistral")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder of the Llama kind: RMS norms, rotary positions, grouped-query attention, SwiGLU."""

    source: str  #: where the sizes come from
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    tied: bool  #: whether input and output embeddings are one matrix
    positions: int  #: the longest sequence it was made for, tokens
    qk_norm: bool = True  #: RMS norms on queries and keys (Qwen3)
    qkv_bias: bool = False
    output_bias: bool = False  #: of the attention's output projection
    mlp_bias: bool = False

    @property
    def linears(self) -> list[tuple[int, int, bool]]:
        """(inputs, outputs, whether it has a bias) of a layer's seven matrices."""
        attention, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return [
            (self.hidden, attention, self.qkv_bias),
            (self.hidden, keys, self.qkv_bias),
            (self.hidden, keys, self.qkv_bias),
            (attention, self.hidden, self.output_bias),
            (self.hidden, self.ffn, self.mlp_bias),
            (self.hidden, self.ffn, self.mlp_bias),
            (self.ffn, self.hidden, self.mlp_bias),
        ]

    @property
    def parameters(self) -> int:
        """Number of parameters; tied weights count once."""
        layer = sum(inputs * outputs + bias * outputs for inputs, outputs, bias in self.linears)
        layer += 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * layer + embeddings + self.hidden

    def lora_parameters(self, rank: int) -> int:
        """Parameters of adapters of a rank on each of the layers' matrices: rank x (inputs + outputs) a matrix."""
        return self.layers * sum(rank * (inputs + outputs) for inputs, outputs, _ in self.linears)

    def kv_bytes(self, dtype_bytes: int, tensor_parallel: int = 1) -> float:
        """Bytes of vLLM's key-value cache a token and GPU. Heads are split over the GPUs, and copied where there are too few."""
        own = max(1, self.kv_heads // tensor_parallel)
        return 2 * self.layers * own * self.head_dim * dtype_bytes


def shape_of(config: TapoConfig) -> ModelShape:
    """The shape of a configuration's initial policy.

    Raises:
        UserError: no checkpoint is at model.path, and its name is in no table; or it is of an unknown architecture.
    """
    path = config.model.path
    if path == NANO:
        nano = config.nano
        return ModelShape(
            "the built-in model",
            nano.hidden_size,
            nano.n_layers,
            nano.n_heads,
            nano.n_kv_heads,
            _NANO_HEAD,
            nano.ffn_size,
            _NANO_VOCABULARY,
            tied=True,
            positions=_NANO_POSITIONS,
        )
    file = Path(path) / "config.json"
    if file.is_file():
        return _read(file)
    named = _PUBLISHED_NAME.search(Path(path).name)
    if named is None:
        raise UserError(
            f"{path}: no checkpoint there (config.json is missing), and no published model of that name is known; set "
            f"model.path to a checkpoint's folder, or to a folder named like one of {', '.join(PUBLISHED)}"
        )
    name = f"Qwen3-{named[1]}B"
    hidden, layers, heads, kv_heads, ffn, tied = PUBLISHED[name]
    source = f"the table of published sizes, {name}: there is no checkpoint at {path}"
    return ModelShape(source, hidden, layers, heads, kv_heads, 128, ffn, 151_936, tied, positions=40_960)


def _positions(keys: Mapping[str, Any]) -> int:
    found = positions(keys)
    if found is None:
        raise KeyError("max_position_embeddings")
    return found


def _read(file: Path) -> ModelShape:
    try:
        keys: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kind = keys["model_type"]
        if kind not in _TYPES:
            raise UserError(
                f"{file}: model_type {kind!r} is not known to the planner, which counts {', '.join(_TYPES)}"
            )
        heads = int(keys["num_attention_heads"])
        attention_bias = bool(keys.get("attention_bias", False))
        return ModelShape(
            str(file),
            hidden=int(keys["hidden_size"]),
            layers=int(keys["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(keys.get("num_key_value_heads") or heads),
            head_dim=int(keys.get("head_dim") or int(keys["hidden_size"]) // heads),
            ffn=int(keys["intermediate_size"]),
            vocabulary=int(keys["vocab_size"]),
            tied=bool(keys.get("tie_word_embeddings", False)),
            positions=_positions(keys),
            qk_norm=kind == "qwen3",
            qkv_bias=attention_bias or kind == "qwen2",
            output_bias=attention_bias and kind != "qwen2",
            mlp_bias=bool(keys.get("mlp_bias", False)),
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: the size {error} is missing or no number") from error
