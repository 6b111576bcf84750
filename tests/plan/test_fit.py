"""What is refused, and whether what is proposed instead fits."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tapo_core.cli.main import app
from tapo_core.config import TapoConfig
from tapo_core.config_file import load_config
from tapo_core.plan import fit
from tapo_core.plan.duration import Assumed, duration_of
from tapo_core.plan.machine import GIB, GPUS, Machine
from tapo_core.plan.memory import cache_of, device_needs, host_need
from tapo_core.plan.rates import measured, rates
from tapo_core.plan.shape import shape_of
from tapo_core.plan.volume import Expected, disk_of, evaluations, tokens_of

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
EIGHT = Machine("H100-80", GPUS["H100-80"], 8, host_gib=1000, disk_free_gib=9000)


def large(*settings: str) -> TapoConfig:
    return load_config(CONFIGS / "qwen3_8b_tapo.toml", settings)


def problems(config: TapoConfig, machine: Machine = EIGHT) -> list[fit.Problem]:
    shape = shape_of(config)
    return [*fit.layout_problems(config, shape, machine), *fit.advised(config, shape, machine)]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (["update.gradient_checkpointing=false"], "update.gradient_checkpointing"),
        (["update.zero_stage=0"], "update.zero_stage"),
        (["cluster.sleep=false", "update.micro_batch_tokens=65536"], "cluster.sleep"),
        (["update.score_chunk_tokens=65536", "update.micro_batch_tokens=65536"], "update.score_chunk_tokens"),
        (["sampler.gpu_memory_utilization=0.95"], "sampler.gpu_memory_utilization"),
        (["sampler.gpu_memory_utilization=0.1"], "sampler.gpu_memory_utilization"),
        (["cluster.trainer_ranks=1", "update.zero_stage=3"], "cluster.trainer_ranks"),
    ],
)
def test_a_refusal_names_keys_and_every_single_value_it_proposes_fits(settings: list[str], key: str) -> None:
    config = large(*settings)
    found = problems(config)
    assert found
    proposed = re.findall(r"([a-z_]+\.[a-z_]+) = (\S+)", found[0].text.split("would fit: ")[1])
    assert key in [name for name, _ in proposed]
    for name, value in proposed:
        assert problems(fit.changed(config, (name, json.loads(value)))) == [], (name, value)


def test_where_one_key_is_not_enough_several_are_proposed_that_fit_together_and_are_all_needed() -> None:
    config = large(
        "update.gradient_checkpointing=false",
        "update.zero_stage=0",
        "cluster.sleep=false",
        "update.micro_batch_tokens=131072",
    )
    found = problems(config)
    together = re.findall(r"([a-z_]+\.[a-z_]+) = ([^\s,]+)", found[0].text.split("would fit together: ")[1])
    changes = [(name, json.loads(value)) for name, value in together]
    assert len(changes) > 1
    assert problems(fit.changed(config, *changes)) == []
    for change in changes:
        assert problems(fit.changed(config, *(other for other in changes if other != change))) != [], change


def test_what_nothing_helps_says_so() -> None:
    small = Machine("small", replace(GPUS["L4-24"], memory_gib=4), 8, disk_free_gib=9000)
    assert "more or larger GPUs" in problems(large(), small)[0].text


@pytest.mark.parametrize(
    ("settings", "machine", "says"),
    [
        ([], replace(EIGHT, gpus=4), "8 GPUs are needed, 4 are there"),
        (['cluster.placement="disjoint"'], EIGHT, "16 GPUs are needed, 8 are there"),
        (
            ["sampler.tensor_parallel_size=3", "cluster.sampler_replicas=2"],
            EIGHT,
            "does not divide the model's 32 heads",
        ),
        (["sampler.max_model_len=65536"], EIGHT, "40960 would fit"),
        ([], replace(EIGHT, host_gib=64), "a node's host needs"),
    ],
)
def test_other_refusals(settings: list[str], machine: Machine, says: str) -> None:
    assert any(says in problem.text for problem in problems(large(*settings), machine))


def test_memory_moves_as_it_should() -> None:
    def moment(name: str, *settings: str) -> float:
        config = large(*settings)
        needs = device_needs(config, shape_of(config), EIGHT)
        return next(need.total for need in needs if need.moment == name) / GIB

    assert moment("sampling", "cluster.sleep=false") > moment("sampling") > 0.6 * 79
    assert moment("updating", "cluster.sleep=false") == pytest.approx(moment("updating") + 0.6 * 79 - 1)
    assert moment("updating", 'cluster.placement="disjoint"') < moment("updating", "cluster.sleep=false") - 40
    assert moment("updating", "update.kl_coefficient=0.1") == pytest.approx(moment("updating") + 15.26, abs=0.01)
    assert moment("updating", 'update.offload="optimizer"') < moment("updating") - 11
    config = large('update.offload="optimizer"')
    assert host_need(config, shape_of(config), EIGHT).parts["Adam"] == 16 * shape_of(config).parameters


def test_the_cache_holds_what_vllm_is_given_less_its_own() -> None:
    config = large()
    cache = cache_of(config, shape_of(config), EIGHT)
    assert cache.bytes_of_token == 2 * 36 * 8 * 128 * 2  # keys and values, layers, heads, head_dim, bytes
    assert cache.tokens * cache.bytes_of_token < (0.6 * 79 - 15.26) * GIB
    halves = large("sampler.tensor_parallel_size=2", "cluster.sampler_replicas=4")
    assert cache_of(halves, shape_of(halves), EIGHT).sequences > 2 * cache.sequences


def test_tokens_and_disk_of_a_run() -> None:
    config = large("evaluation.datasets={}")
    tokens = tokens_of(config, Expected())
    assert (tokens.rollouts, tokens.constructions) == (1024, 512)
    assert tokens.rollout_tokens == 1024 * 4096
    assert tokens.trained_tokens == 1024 * 4096 + 512 * 6144 + 1536 * 200
    assert tokens.scored_tokens == 512 * (6144 + 200), "of rollouts by the step itself"
    assert tokens_of(large("update.epochs=2"), Expected()).scored_tokens == tokens.trained_tokens
    assert tokens_of(config, Expected(mean_tokens=1024)).rollout_tokens == 1024 * 1024
    assert tokens_of(large("filter.m_max=8"), Expected()).constructions == 128 * 6, "two of eight are correct"
    assert tokens_of(load_config(CONFIGS / "qwen3_8b_grpo.toml"), Expected()).constructions == 0
    located = tokens_of(large('locate_error.methods=["policy", "continuation"]'), Expected()).locating_tokens
    assert located == 512 * 5 * 64 + 512 * 4 * 8 * 4096
    assert (evaluations(config), evaluations(large("evaluation.every=0")), evaluations(large("run.iterations=30"))) == (
        26,
        2,
        3,
    )
    shape = shape_of(config)
    disk = disk_of(config, shape, Expected(), None)
    assert (disk.versions, disk.weights) == (500, 2 * shape.parameters)
    assert disk.optimizer == 12 * shape.parameters  # measured: benchmarks/plan_states.py
    assert disk_of(config, shape, Expected(), 3).versions == 5
    rollouts = 500 * 1024 + 26 * 3200
    assert disk.store == pytest.approx(
        rollouts * (measured("store_rollout").value + 4096 * measured("store_token").value)
    )


def test_every_measurement_says_how_it_was_made() -> None:
    for name, rate in rates().items():
        assert rate.value > 0, name
        assert (CONFIGS.parent / rate.command.split()[1]).is_file(), name
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", rate.date), name
        assert rate.device, name
        assert rate.model, name


def test_time_is_measured_estimated_or_unknown_and_says_which() -> None:
    config = large()
    tokens = tokens_of(config, Expected())
    found = duration_of(config, shape_of(config), EIGHT, tokens, Assumed())
    assert found.basis.startswith("ESTIMATE from FLOPs, not measured")
    halved = duration_of(config, shape_of(config), EIGHT, tokens, Assumed(mfu=0.15, sampling_mfu=0.05))
    assert halved.total == pytest.approx(2 * (found.total or 0.0))
    host = Machine("this machine", None, host_gib=64)
    assert duration_of(config, shape_of(config), host, tokens, Assumed()).total is None
    nano = load_config(CONFIGS / "nano_tapo.toml")
    known = duration_of(nano, shape_of(nano), host, tokens_of(nano, Expected()), Assumed())
    assert known.basis.startswith("measured")
    wider = load_config(CONFIGS / "nano_tapo.toml", ["nano.hidden_size=128"])
    assert duration_of(wider, shape_of(wider), host, tokens_of(wider, Expected()), Assumed()).total is None


def test_the_command_prints_refuses_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def plan(config: str, *options: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["plan", str(CONFIGS / config), *options])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    code, told = plan("qwen3_8b_tapo.toml", "--gpu", "H100-80", "--gpus", "8", "--disk-gib", "100")
    assert code == 1
    assert "does not fit: run.output_dir has 100 GiB free" in told
    assert "the table of published sizes" in told
    code, told = plan(
        "qwen3_8b_tapo.toml",
        "--gpu",
        "H100-80",
        "--gpus",
        "8",
        "--disk-gib",
        "500",
        "--keep-checkpoints",
        "3",
        "--json",
    )
    assert (code, json.loads(told)["fits"]) == (0, True)
    code, told = plan("nano_tapo.toml", "--host-memory-gib", "0.5", "--json")
    assert (code, json.loads(told)["fits"]) == (1, False)
    code, told = plan(
        "nano_tapo.toml", "--host-memory-gib", "16", "--set", "sampler.kv_cache_gib=99", "--disk-gib", "9"
    )
    assert code == 1
    assert "sampler.kv_cache_gib = 0.1" in told
    code, told = plan("nano_tapo.toml", "--disk-gib", "9")
    assert (code, told.strip().splitlines()[-1]) == (0, "It fits.")
    assert list(tmp_path.iterdir()) == []
