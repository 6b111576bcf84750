"""Sizes and parameters, against transformers' own models (on the meta device: no weights are made)."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from tapo_core.config_file import parse_config
from tapo_core.errors import UserError
from tapo_core.nano.config import NanoConfig
from tapo_core.nano.model import build_model, count_parameters
from tapo_core.plan.shape import PUBLISHED, ModelShape, shape_of


def shape(path: str, **nano: object) -> ModelShape:
    return shape_of(parse_config({"run": {"name": "a"}, "model": {"path": path}, "nano": nano}, "test"))


def real_count(config: PretrainedConfig) -> int:
    with torch.device("meta"):
        return count_parameters(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_models_are_counted_to_the_parameter(name: str) -> None:
    hidden, layers, heads, kv_heads, ffn, tied = PUBLISHED[name]
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=128,
        intermediate_size=ffn,
        tie_word_embeddings=tied,
    )
    found = shape(f"models/{name}")
    assert found.parameters == real_count(config)
    assert "table" in found.source
    billions = float(name.removeprefix("Qwen3-").removesuffix("B"))
    assert found.parameters / 1e9 == pytest.approx(billions, rel=0.2), "the name says about how many there are"


SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    "config",
    [
        Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=32, intermediate_size=96),
        Qwen3Config(**SMALL, num_key_value_heads=2, attention_bias=True),
        Qwen2Config(**SMALL, num_key_value_heads=2, tie_word_embeddings=True),
        LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    ],
    ids=["qwen3", "qwen3-bias", "qwen2", "llama-bias"],
)
def test_a_checkpoint_is_counted_from_its_own_file(tmp_path: Path, config: PretrainedConfig) -> None:
    config.save_pretrained(tmp_path)
    found = shape(str(tmp_path))
    assert found.parameters == real_count(config)
    assert found.source.endswith("config.json")


@pytest.mark.parametrize(
    "nano", [{}, {"hidden_size": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "ffn_size": 160}]
)
def test_the_built_in_model(nano: dict[str, int]) -> None:
    assert shape("nano", **nano).parameters == count_parameters(build_model(NanoConfig(**nano), 0))


def test_adapters_are_counted_as_peft_makes_them() -> None:
    from peft import LoraConfig, get_peft_model

    config = Qwen3Config(
        vocab_size=128,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
    )
    with torch.device("meta"):
        model = get_peft_model(
            AutoModelForCausalLM.from_config(config),
            LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    own = ModelShape("", 64, 2, 4, 2, config.head_dim, 96, 128, tied=False, positions=1)
    assert own.lora_parameters(8) == trained


def test_what_cannot_be_counted_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"models/mine: no checkpoint there .* Qwen3-8B"):
        shape("models/mine")
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UserError, match="model_type 'gpt2' is not known"):
        shape(str(tmp_path))
    file.write_text(json.dumps({"model_type": "qwen3", "num_attention_heads": 4}))
    with pytest.raises(UserError, match="'hidden_size' is missing"):
        shape(str(tmp_path))
    file.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        shape(str(tmp_path))
