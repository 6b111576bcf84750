"""The probe: wrong weights are found, right ones never alarm, and it says what it found."""

import contextlib
import itertools
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import pad

from tapo_core.assets import resolve_assets
from tapo_core.config import SamplerConfig, TokenWeightConfig
from tapo_core.config_update import OffPolicyConfig, UpdateConfig
from tapo_core.engines.fingerprint import fingerprint
from tapo_core.engines.hf import HfSampler, load_model
from tapo_core.engines.openrlhf_trainer import OpenRlhfTrainer
from tapo_core.engines.probe import CALIBRATION, CEILING, Differences, Place, Probe, judged, measure, prove
from tapo_core.engines.protocols import HeldWeights, PolicyRef, SampleRequest
from tapo_core.engines.vllm_sampler import VllmSampler
from tapo_core.errors import PolicyMismatchError
from tapo_core.nano.model import HEAD_DIM
from tapo_core.progress import reporting
from tapo_core.session import Session
from tapo_core.stages.evaluate import evaluate
from tapo_core.stages.start import start
from tests.flows.conftest import Configure
from tests.flows.test_ray import Notes
from tests.flows.test_update_step import made_up_trajectories

RESUME = "tapo resume runs/x"


def requests(n: int = 64, start: int = 0) -> list[SampleRequest]:
    prompts = [[1, *range(5, 8 + k % 5)] for k in range(n)]
    return [SampleRequest(prompt, start + k, 32, temperature=1.0, top_p=1.0) for k, prompt in enumerate(prompts)]


def changed(checkpoint: Path, folder: Path, change: Callable[[torch.nn.Module], None], dtype: str) -> Path:
    """A copy of a checkpoint with other weights."""
    model = load_model(checkpoint, dtype, "cpu")
    with torch.no_grad():
        change(model)
    shutil.copytree(checkpoint, folder)
    model.save_pretrained(folder)
    return folder


def perturbed_layer(model: torch.nn.Module) -> None:
    """The weights of one MLP, off by a tenth."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.model.layers[1].mlp.parameters():
        weight *= 1 + 0.1 * torch.randn(weight.shape, generator=generator).to(weight.dtype)


def permuted_head(model: torch.nn.Module) -> None:
    """Two heads of one layer's queries, each in the other's place: the same values."""
    weight = model.model.layers[1].self_attn.q_proj.weight
    weight[: 2 * HEAD_DIM] = weight[: 2 * HEAD_DIM].roll(HEAD_DIM, 0)


def updated(policy: PolicyRef, folder: Path, dtype: str) -> PolicyRef:
    """The policy after an update with the default settings."""
    trainer = OpenRlhfTrainer(UpdateConfig(), TokenWeightConfig(), dtype, 1.0, 0, policy.checkpoint, OffPolicyConfig())
    trainer.load_policy(policy)
    trainer.update(made_up_trajectories(policy.checkpoint, 9), seed=5)
    trainer.publish(folder, "p1")
    trainer.close()
    return PolicyRef("p1", folder / "hf")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_wrong_weights_are_found(configure: Configure, tmp_path: Path, dtype: str) -> None:
    p0 = PolicyRef("p0", resolve_assets(configure("probed")).model)
    p1 = updated(p0, tmp_path / "p1", dtype)
    perturbed = changed(p1.checkpoint, tmp_path / "perturbed", perturbed_layer, dtype)
    permuted = changed(p1.checkpoint, tmp_path / "permuted", permuted_head, dtype)
    sampler = VllmSampler(SamplerConfig(), dtype)

    def probed(held: Path, policy: PolicyRef, known: list[Probe]) -> list[Probe]:
        """Probe the engine, which holds a checkpoint, for a policy."""
        sampler.load_policy(replace(policy, checkpoint=held))
        return prove(sampler, policy, requests(), known, None, dtype, "cpu", RESUME)

    def by_logprobs(held: Path) -> Probe:
        """What the log-probabilities alone say of an engine that holds a checkpoint in place of p1."""
        sampler.load_policy(replace(p1, checkpoint=held))
        (found,) = measure(sampler, p1, requests(16), sampler.weights_on_each(), dtype, "cpu")
        return judged(found, known, None)

    known = probed(p0.checkpoint, p0, [])
    assert [(probe.calibration, probe.bound) for probe in known] == [(True, CEILING[dtype])]
    known += probed(p1.checkpoint, p1, known)
    assert not known[1].calibration
    assert known[1].weights == known[1].checkpoint_weights != known[0].weights
    assert known[1].differences.n_tokens < known[0].differences.n_tokens / 2

    with pytest.raises(
        PolicyMismatchError, match=r"does not sample from policy p1 .*: it holds the weights of policy p0\."
    ):
        probed(p0.checkpoint, p1, known)
    for wrong in (perturbed, permuted):
        with pytest.raises(PolicyMismatchError, match=rf"its weights are not those .* Start a new engine.*: {RESUME}"):
            probed(wrong, p1, known)
        found = by_logprobs(wrong)
        assert found.differences.mean > found.bound, "the log-probabilities alone tell as well"
    # A broken engine calibrates nothing.
    with pytest.raises(PolicyMismatchError, match=f"the most that rounding to {dtype} explains"):
        probed(permuted, p1, [])
    # An update of this size shows in float32; in bfloat16 rounding hides it, and the fingerprint alone tells.
    found = by_logprobs(p0.checkpoint)
    assert (found.differences.mean > found.bound) == (dtype == "float32")

    if dtype == "bfloat16":
        for n in range(20):
            sampler.load_policy(p1)
            known += prove(sampler, p1, requests(start=1000 * n), known, None, dtype, "cpu", RESUME)
        assert max(probe.differences.largest for probe in known) > 2 * known[0].bound / 3, (
            "single tokens differ by far more"
        )
    sampler.close()


PLACE = Place("engine 1", "bfloat16", "CPU", "CPU")


def made_up(
    mean: float, std: float = 0.05, n: int = 500, weights: str = "a", checkpoint: str = "a", **fields: object
) -> Probe:
    found = Differences(n, mean, std, math.hypot(mean, std), 10 * mean)
    return replace(Probe("p", 0, PLACE, found, weights, checkpoint), **fields)


def test_the_bound_follows_from_the_run_s_own_probes() -> None:
    first = judged(made_up(0.04, n=2000), [], None)
    assert (first.bound, first.calibration) == (0.15, True)
    second = judged(made_up(0.05), [first], None)
    assert second.bound == pytest.approx(1.5 * 0.04 + 4 * 0.05 * math.sqrt(2 * (1 / 2000 + 1 / 500)))
    assert not second.calibration
    third = judged(made_up(0.05), [first, second], None)
    assert third.bound == pytest.approx(1.5 * 0.05 + 4 * 0.05 * math.sqrt(2 * (1 / 500 + 1 / 500))), "noise that drifts"
    assert judged(made_up(0.02), [first, made_up(0.02)], None).bound == second.bound, (
        "never tighter than the calibration"
    )
    assert judged(made_up(0.02), [judged(made_up(0.12), [], None)], None).bound == 0.15
    certain = judged(made_up(1e-6, std=1e-6), [], None)
    assert judged(made_up(0.004), [certain], None).bound == 5e-3
    assert judged(made_up(0.2), [first], 0.25).bound == 0.25
    # Another engine, precision or device rounds differently: it is measured again.
    for other in (replace(PLACE, engine="engine 2"), replace(PLACE, dtype="float32"), replace(PLACE, device="GPU")):
        again = judged(made_up(0.04, place=other), [first, second], None)
        assert (again.bound, again.calibration) == (CEILING[other.dtype], True)


class Engine:
    """Claims to hold what it is told to, and samples with the oracle."""

    def __init__(self, checkpoint: Path, *fingerprints: str) -> None:
        self._oracle = HfSampler(SamplerConfig(engine="hf"), "float32")
        self._oracle.load_policy(PolicyRef("p", checkpoint))
        self.name, self.fingerprints, self.policy_version_id = "engine 1", fingerprints, "p"
        self.off = 0.0  #: nats

    def weights_on_each(self) -> list[HeldWeights]:
        return [HeldWeights(value, "CPU") for value in self.fingerprints]

    def sample_on_each(self, requests):  # type: ignore[no-untyped-def]
        samples = self._oracle.sample(requests)
        return [
            [replace(s, logprobs_T=[value + self.off for value in s.logprobs_T]) for s in samples]
            for _ in self.fingerprints
        ]


def test_an_engine_with_weights_in_another_form(checkpoint: Path, tmp_path: Path) -> None:
    other = changed(checkpoint, tmp_path / "other", perturbed_layer, "float32")
    p0, p1 = PolicyRef("p0", checkpoint), PolicyRef("p1", other)
    engine, listener = Engine(checkpoint, "01", "01"), Notes()

    def probed(policy: PolicyRef, known: list[Probe]) -> list[Probe]:
        return prove(engine, policy, requests(16), known, 1e9, "float32", "cpu", RESUME)

    with reporting(listener):
        known = probed(p0, [])
        assert [probe.replica for probe in known] == [0, 1]
        assert len(listener.notes) == 1
        assert "engine 1 holds the weights in another form than the checkpoint" in listener.notes[0]
        known += probed(p0, known)
        assert len(listener.notes) == 1, "told once"
    with pytest.raises(PolicyMismatchError, match="it holds the weights of policy p0"):
        probed(p1, known)
    engine.fingerprints = ("02", "02")
    known += probed(p1, known)
    engine.fingerprints = ("01", "03")
    with pytest.raises(
        PolicyMismatchError, match=r"\(replica 1, .*its weights are not those that it had of the same checkpoint"
    ):
        probed(p0, known)


def test_what_is_wrong_is_told_with_what_to_do(checkpoint: Path) -> None:
    own = f"{fingerprint(load_model(checkpoint, 'float32', 'cpu').parameters()):016x}"
    engine, policy = Engine(checkpoint, own), PolicyRef("p0", checkpoint)

    def told(off: float, known: list[Probe], tolerance: float | None = None) -> str:
        engine.off = off
        with pytest.raises(PolicyMismatchError) as caught:
            prove(engine, policy, requests(16), known, tolerance, "float32", "cpu", RESUME)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    known = prove(engine, policy, requests(16), [], None, "float32", "cpu", RESUME)
    near = told(2e-5, known)
    assert "the bound of the mean is 1e-05, from what was measured in this run before" in near
    assert f"accept it: {RESUME} --set sampler.probe_tolerance=4e-05" in near
    engine.off = 2e-5
    assert prove(engine, policy, requests(16), known, 4e-5, "float32", "cpu", RESUME)[0].bound == 4e-5
    assert "4e-05, sampler.probe_tolerance." in told(0.1, known, 4e-5)
    assert f"accept it: {RESUME} --set sampler.probe_tolerance=measured" in told(2e-5, known, 1e-6)
    assert "Rounding to float32 does not explain that" in told(0.1, known)
    assert "0.001, the most that rounding to float32 explains" in told(0.1, [])
    for nonsense in (math.nan, math.inf):
        assert "does not sample from policy p0" in told(nonsense, known)


def test_a_fingerprint_is_of_every_weight_and_its_place() -> None:
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        parts = [torch.randn(40, 30, generator=generator).to(dtype) for _ in range(3)]
        expected = fingerprint(parts)
        assert fingerprint(torch.cat(parts).split(40)) == fingerprint(reversed(parts)) == expected
        assert fingerprint([*parts[:2], pad(parts[2], (0, 0, 0, 5))]) == expected, "zeros are no weights"
        seen = {
            expected,
            fingerprint([parts[0].roll(8, 0), *parts[1:]]),
            fingerprint([parts[0].roll(8, 1), *parts[1:]]),
        }
        # One weight by the smallest step up, another one down: sums of the weights would be the same.
        for one, other in itertools.permutations(range(10), 2):
            bits = parts[0].clone().view({2: torch.int16, 4: torch.int32}[parts[0].element_size()])
            bits[0, one] += 1
            bits[0, other] -= 1
            seen.add(fingerprint([bits.view(dtype), *parts[1:]]))
        assert len(seen) == 3 + 90
    assert fingerprint([torch.zeros(3)]) == 0


def test_a_calibration_takes_four_times_the_sequences(checkpoint: Path) -> None:
    engine = Engine(checkpoint, "01")
    first = prove(engine, PolicyRef("p", checkpoint), requests(16), [], None, "float32", "cpu", RESUME)
    (second,) = measure(
        engine, PolicyRef("p", checkpoint), requests(16)[:4], engine.weights_on_each(), "float32", "cpu"
    )
    (found,) = prove(engine, PolicyRef("p", checkpoint), requests(16), first, None, "float32", "cpu", RESUME)
    assert CALIBRATION == 4
    assert found.differences == second.differences


def test_an_engine_that_failed_its_probe_is_not_used(configure: Configure) -> None:
    settings = ('sampler.engine="hf"', "sampler.probe_sequences=2")
    strict = configure("strict", *settings, "sampler.probe_tolerance=1e-12")
    session = Session(strict, resolve_assets(strict))
    start(session)
    resume = f"tapo resume {strict.run_folder} --set sampler.probe_tolerance=measured"
    for _ in range(2):  # the engine claims to hold the policy, the second time as well
        with pytest.raises(PolicyMismatchError, match=f"1e-12, sampler.probe_tolerance.* accept it: {resume}$"):
            session.sampler_at(session.policy_version(0))
    session.close()

    config = configure("kept", *settings)
    with contextlib.closing(Session(config, resolve_assets(config))) as session:
        begun = start(session)
        session.sampler_at(session.policy_version(0))
        evaluate(session, 0, begun.chain_digest)
    with contextlib.closing(Session(config, resolve_assets(config))) as session:
        start(session)
        session.sampler_at(session.policy_version(0))
        assert [probe.calibration for probe in session._probes] == [True, False], "the first one was stored"
