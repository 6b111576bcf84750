"""Model, cold start and cache, with a cold start of a few steps."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM

from tapo_core.errors import ConfigError
from tapo_core.nano import cold_start
from tapo_core.nano.config import NanoConfig
from tapo_core.nano.families import read_queries
from tapo_core.nano.model import build_model, count_parameters
from tapo_core.nano.prepare import NanoAssets, assets_digest, prepare
from tapo_core.nano.tokenizer import VOCAB_SIZE

QUICK = NanoConfig(steps=5, batch_size=8, n_train=20, n_held_out=10, threads=1, hidden_size=64, n_layers=1)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NanoAssets]:
    root = tmp_path_factory.mktemp("nano")
    return root, prepare(QUICK, root)


def test_model_is_small_and_matches_the_tokenizer() -> None:
    model = build_model(NanoConfig(), seed=0)
    assert count_parameters(model) < 2_000_000
    assert model.config.vocab_size == VOCAB_SIZE == model.get_input_embeddings().weight.shape[0]
    assert model.config.tie_word_embeddings
    assert model.generation_config is not None
    assert model.generation_config.top_k == 0


def test_building_a_model_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    build_model(NanoConfig(), seed=1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_cold_start_is_bit_identical_and_depends_on_the_seed() -> None:
    first, again = cold_start.train(QUICK), cold_start.train(QUICK)
    other = cold_start.train(QUICK.model_copy(update={"seed": 1}))
    weights = first.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.model.state_dict().items())
    assert first.final_loss == again.final_loss != other.final_loss


def test_an_untrained_model_guesses_uniformly() -> None:
    result = cold_start.train(QUICK.model_copy(update={"steps": 1}))
    # An untrained model knows nothing: the loss is that of a uniform guess over the vocabulary, within initialisation noise.
    assert abs(result.final_loss - torch.log(torch.tensor(float(VOCAB_SIZE))).item()) < 0.5


def test_learning_rate_schedule() -> None:
    shares = [cold_start.lr_share(step, 100) for step in range(100)]
    assert shares[0] > 0
    assert max(shares) == 1.0
    assert shares.index(1.0) < 10
    assert shares[-1] < 0.05


def test_assets_load_with_the_plain_libraries(built: tuple[Path, NanoAssets]) -> None:
    root, assets = built
    model = AutoModelForCausalLM.from_pretrained(assets.model_path)
    tokenizer = AutoTokenizer.from_pretrained(assets.model_path)
    assert isinstance(model, Qwen3ForCausalLM)
    assert len(tokenizer) == model.config.vocab_size
    assert (assets.model_path / "model.safetensors").is_file()
    assert model.generation_config is not None
    assert (model.generation_config.top_k, model.generation_config.eos_token_id) == (0, tokenizer.eos_token_id)
    assert assets.digest == assets_digest(QUICK) == assets.model_path.parent.name
    assert assets.metrics["final_loss"] > 0
    rows = [json.loads(line) for line in assets.train_path.read_text().splitlines()]
    assert [sorted(row) for row in rows] == [["answer", "family", "id", "level", "problem"]] * QUICK.n_train
    held_out = {problem.text for problem in read_queries(assets.held_out_path)}
    assert len(held_out) == QUICK.n_held_out
    assert not held_out & {row["problem"] for row in rows}
    assert sorted(path.name for path in root.iterdir()) == [assets.digest, f"{assets.digest}.lock"]


def test_second_call_does_not_train(built: tuple[Path, NanoAssets], monkeypatch: pytest.MonkeyPatch) -> None:
    root, assets = built
    monkeypatch.setattr(cold_start, "train", _forbidden)
    assert prepare(QUICK, root, _forbidden) == assets


@pytest.mark.parametrize("damage", ["truncated weights", "no metadata", "edited problems"])
def test_a_damaged_folder_is_built_again(built: tuple[Path, NanoAssets], tmp_path: Path, damage: str) -> None:
    root, assets = built
    copy = tmp_path / assets.digest
    shutil.copytree(root / assets.digest, copy)
    weights = copy / "model" / "model.safetensors"
    if damage == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "no metadata":
        (copy / "metadata.json").unlink()
    else:
        (copy / "train.jsonl").write_text("{}\n")
    seen: list[tuple[str, float]] = []
    again = prepare(QUICK, tmp_path, lambda stage, done: seen.append((stage, done)))
    assert seen[-1] == ("cold start", 1.0)
    assert _weights(again) == _weights(assets)
    assert prepare(QUICK, tmp_path, _forbidden) == again


def test_an_interrupted_build_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "train", _forbidden)
    with pytest.raises(AssertionError):
        prepare(QUICK, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


BUILD = """
import sys
from pathlib import Path
from tapo_core.nano.config import NanoConfig
from tapo_core.nano.prepare import prepare
steps = []
assets = prepare(NanoConfig.model_validate_json(sys.argv[2]), Path(sys.argv[1]), lambda *_: steps.append(1))
print(assets.model_path, len(steps))
"""


def test_two_processes_build_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path), QUICK.model_dump_json()]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate(timeout=120)[0].split() for process in running)
    assert first[0] == second[0]
    assert sorted([int(first[1]), int(second[1])]) == [0, QUICK.steps]


def test_digest_depends_on_the_configuration() -> None:
    assert assets_digest(QUICK) != assets_digest(QUICK.model_copy(update={"seed": 1}))


def test_too_few_problems_fail_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "train", _forbidden)
    config = NanoConfig(families=("equation",), levels=(1,), n_train=5000)
    with pytest.raises(ConfigError, match="too few different problems"):
        prepare(config, tmp_path)


@pytest.mark.parametrize(
    "key", [{"levels": ()}, {"levels": (7,)}, {"families": ("sudoku",)}, {"lr": 1.0}, {"steps": 0}, {"slip_rate": 1.0}]
)
def test_bad_settings_are_refused(key: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NanoConfig.model_validate(key)


def test_families_import_without_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'tokenizers'): sys.modules[name] = None\n"
        "import tapo_core.nano.families, tapo_core.nano.examples, tapo_core.nano.prepare\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _forbidden(*_: object) -> None:
    raise AssertionError("this must not be called")


def _weights(assets: NanoAssets) -> dict[str, list[float]]:
    tensors = load_file(assets.model_path / "model.safetensors")
    return {name: tensor.flatten().tolist() for name, tensor in tensors.items()}
