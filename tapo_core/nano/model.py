"""The nano model: a Qwen3 of under two million parameters, in the format that every engine reads."""

import math

import torch
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from tapo_core.nano.config import NanoConfig
from tapo_core.nano.task import MAX_NUMBER
from tapo_core.nano.tokenizer import END_ID, MAX_LENGTH, PAD_ID, VOCAB_SIZE, build_tokenizer

#: The smallest head that vLLM's CPU attention knows.
HEAD_DIM = 32

#: Wider than the library's 0.02, and a base that fits 1024 positions: both lowered the loss after 250 steps of cold start.
_INIT_STD = 0.06
_ROPE_THETA = 500.0
#: Periods on whose circles numbers are placed, and the size of a place beside the random part.
_PERIODS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
_PLACE_SCALE = 0.04


def model_config(config: NanoConfig) -> Qwen3Config:
    """The architecture. Model and tokenizer have the same vocabulary size: engines disagree about padded ones."""
    return Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_size,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=_INIT_STD,
        rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA},
        tie_word_embeddings=True,
        use_cache=True,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
        dtype="float32",
    )


def build_model(config: NanoConfig, seed: int) -> Qwen3ForCausalLM:
    """A randomly initialised model (float32, CPU). The caller's torch random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        architecture = model_config(config)
        model = Qwen3ForCausalLM(architecture)
    _arrange_numbers(model)
    # Plain sampling unless a caller asks otherwise: the library's default of top_k = 50 would silently cut the distribution.
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=architecture.eos_token_id,
        pad_token_id=architecture.pad_token_id,
    )
    return model


def _arrange_numbers(model: Qwen3ForCausalLM) -> None:
    """Add the numbers' places on circles of several periods to their random embeddings, so that tables are learnt sooner.

    A large pretrained model has number embeddings of this kind (arXiv 2406.03445); this one has minutes to find its own.
    """
    tokenizer = build_tokenizer()
    ids = tokenizer.convert_tokens_to_ids([str(number) for number in range(MAX_NUMBER + 1)])
    angles_NP = torch.arange(MAX_NUMBER + 1)[:, None] * (2 * math.pi / torch.tensor(_PERIODS))
    places_NC = torch.cat([angles_NP.sin(), angles_NP.cos()], dim=1)
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight[ids, : places_NC.shape[1]] += _PLACE_SCALE * places_NC


def count_parameters(model: torch.nn.Module) -> int:
    """Number of parameters; tied weights count once."""
    return sum(parameter.numel() for parameter in model.parameters())
