"""The probe: after every weight load, check that the sampling engine holds the published checkpoint, and computes with it what
the checkpoint says. An engine that reports success and keeps old (or broken) weights is caught here, before anything is stored.

Two things are compared.

**The weights**, by their fingerprint (`fingerprint`): exact, in every dtype. Where an engine holds the checkpoint's own tensors,
both fingerprints are equal. An engine that holds them in another form (cast, transposed, or in parts, as tensor parallelism does)
has other fingerprints, but still the same one for the same checkpoint, and another one for another checkpoint.

**The log-probabilities** of a few hundred tokens that the engine samples, against those that transformers computes from the
checkpoint's files. Of their differences d (nats) the mean of |d| is judged, not the largest one: rounding makes single tokens
differ by tenths of a nat in bfloat16, and the largest of n grows with n. The bound is measured, not chosen:

    bound = 1.5 m + 4 s sqrt(2 (1/n0 + 1/n)),    at least `FLOOR` and at most `CEILING` of the dtype

m and s are mean and standard deviation of |d| over n0 tokens of an earlier probe of the same engine, dtype and devices: of the
calibration (the first one of a run, on four times as many tokens) or of the last one, whichever has the larger mean, so that the
bound follows a noise that drifts as the policy changes; n is the number of tokens now. 1.5 is for what the noise drifts from one
load to the next. The second term is four standard errors of the difference of two means; the 2 is for tokens of one sequence
being alike (0.65 to 1.6 was measured by benchmarks/probe.py). The calibration itself has to be below the ceiling.

What log-probabilities cannot show: if a fault moves them by delta (root mean square) where rounding moves them by sigma, the mean
of |d| grows by a factor of sqrt(1 + delta^2 / sigma^2), so that faults above about 1.6 sigma are found. sigma was 0.065 nats in
bfloat16 on a 135M model, and 1e-6 in float32. An update at a small learning rate moves them by less than that in bfloat16: old
weights after such an update are found by their fingerprint alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tapo_core.engines.environment import device_name
from tapo_core.engines.fingerprint import fingerprint
from tapo_core.engines.hf import load_model
from tapo_core.engines.protocols import HeldWeights, PolicyRef, Sample, Sampler, SampleRequest
from tapo_core.engines.scoring import response_logprobs
from tapo_core.errors import PolicyMismatchError
from tapo_core.progress import current_reporter

#: Tokens that are sampled of each sequence.
TOKENS = 32

#: How many times as many sequences a calibration takes.
CALIBRATION = 4

#: Mean |d| in nats that no engine which rounds to this dtype needs. bfloat16 has 8 significant bits: logits between 32 and 64 are
#: rounded to multiples of 0.25, two engines' independently, which makes a mean of 0.25 / 3 = 0.08; as much again from the layers
#: before, in squares, makes 0.12. (0.043 was measured on a 135M model.) float32 engines differ by 1e-6 to 1e-5.
CEILING = {"float32": 1e-3, "bfloat16": 0.15}

#: Mean |d| in nats that passes however small the noise was when it was measured: the policy may have been nearly certain of every
#: token then. A token's importance ratio is off by as much, 0.001% or half a percent.
FLOOR = {"float32": 1e-5, "bfloat16": 5e-3}

_DRIFT = 1.5
_STANDARD_ERRORS = 4.0
_DESIGN_EFFECT = 2.0

#: Up to so many times the measured bound, rounding may be the cause.
_NEAR = 3.0


@dataclass(frozen=True, slots=True)
class Differences:
    """Of log-probabilities of the same tokens by an engine and by the checkpoint; d is in nats."""

    n_tokens: int
    mean: float  #: of |d|
    std: float  #: of |d|
    rms: float  #: of d
    largest: float  #: |d|


@dataclass(frozen=True, slots=True)
class Place:
    """What rounding depends on: probes of one place are comparable."""

    engine: str  #: name and version
    dtype: str
    device: str  #: the engine's
    reference_device: str  #: where the checkpoint's log-probabilities are computed


@dataclass(frozen=True, slots=True)
class Probe:
    """One engine, probed after it took a policy. The manifest of the stage that loaded the policy has it (view `probe`)."""

    policy_version_id: str
    replica: int  #: 0, 1, ...: which of a sampler's engines
    place: Place
    differences: Differences
    weights: str  #: fingerprint of the engine's weights
    checkpoint_weights: str  #: fingerprint of the checkpoint's
    bound: float = math.inf  #: that was not to be exceeded by `differences.mean`
    calibration: bool = False  #: no earlier probe of this place was there to compare with


def prove(
    sampler: Sampler,
    policy: PolicyRef,
    requests: Sequence[SampleRequest],
    earlier: Sequence[Probe],
    tolerance: float | None,
    dtype: str,
    device: str,
    resume: str,
) -> list[Probe]:
    """Probe every engine of a sampler that has taken a policy; what was measured, one for each engine.

    `requests`: enough for a calibration; where none is needed, the first ones are used, 1 in `CALIBRATION` of all. `earlier`: the
    run's probes so far, in order. `tolerance`: the bound (nats) in place of the measured one. `device`: where the checkpoint is
    read. `resume`: the command that resumes the run, for the error.

    Raises:
        PolicyMismatchError: an engine holds other weights, or its log-probabilities differ by more than the bound.
    """
    held = sampler.weights_on_each()
    places = {Place(sampler.name, dtype, weights.device, device_name(device)) for weights in held}
    if tolerance is not None or places <= {probe.place for probe in earlier if probe.calibration}:
        requests = requests[: math.ceil(len(requests) / CALIBRATION)]
    proven: list[Probe] = []
    for measured in measure(sampler, policy, requests, held, dtype, device):
        before = [*earlier, *proven]
        probe = judged(measured, before, tolerance)
        fault = _fault_of_weights(probe, before)
        if fault is not None:
            raise PolicyMismatchError(_told_of_weights(probe, policy, fault, resume))
        if not probe.differences.mean <= probe.bound:
            raise PolicyMismatchError(_told_of_logprobs(probe, policy, tolerance, resume))
        if probe.weights != probe.checkpoint_weights and not any(one.place == probe.place for one in before):
            current_reporter().note(
                f"{sampler.name} holds the weights in another form than the checkpoint, so that the probe cannot compare their "
                "values: it checks that they change from policy to policy, and compares log-probabilities"
            )
        proven.append(probe)
    return proven


def measure(
    sampler: Sampler,
    policy: PolicyRef,
    requests: Sequence[SampleRequest],
    held: Sequence[HeldWeights],
    dtype: str,
    device: str,
) -> Iterator[Probe]:
    """What the probe of each engine finds. Nothing is judged. `held`: what each engine holds."""
    answers = sampler.sample_on_each(requests)
    model = load_model(policy.checkpoint, dtype, device)
    own = f"{fingerprint(model.parameters()):016x}"
    prompts = [request.prompt_token_ids for request in requests]
    expected: dict[tuple[tuple[int, ...], ...], list[list[float]]] = {}  # replicas mostly sample the same
    for replica, (weights, samples) in enumerate(zip(held, answers, strict=True)):
        texts = tuple(tuple(sample.token_ids_T) for sample in samples)
        if texts not in expected:
            expected[texts] = response_logprobs(model, prompts, texts, requests[0].temperature)
        yield Probe(
            policy.policy_version_id,
            replica,
            Place(sampler.name, dtype, weights.device, device_name(device)),
            differences(samples, expected[texts]),
            weights.fingerprint,
            own,
        )


def differences(samples: Sequence[Sample], expected: Sequence[Sequence[float]]) -> Differences:
    """Of the samples' log-probabilities from those expected, token by token."""
    both = (zip(s.logprobs_T, reference, strict=True) for s, reference in zip(samples, expected, strict=True))
    found = [abs(a - b) for pairs in both for a, b in pairs]
    n = len(found)
    mean, square = math.fsum(found) / n, math.fsum(d * d for d in found) / n
    # max() passes over what is not a number; the mean does not.
    return Differences(n, mean, math.sqrt(max(0.0, square - mean * mean)), math.sqrt(square), max(found))


def judged(probe: Probe, earlier: Sequence[Probe], tolerance: float | None) -> Probe:
    """The probe with its bound, which follows from the earlier ones of its place, if there is no tolerance."""
    if tolerance is not None:
        return replace(probe, bound=tolerance)
    alike = [one for one in earlier if one.place == probe.place]
    calibrations = [one for one in alike if one.calibration]
    ceiling = CEILING[probe.place.dtype]
    if not calibrations:
        return replace(probe, bound=ceiling, calibration=True)
    noise = max((one.differences for one in (calibrations[-1], alike[-1])), key=lambda d: d.mean)
    error = noise.std * math.sqrt(_DESIGN_EFFECT * (1 / noise.n_tokens + 1 / probe.differences.n_tokens))
    bound = _DRIFT * noise.mean + _STANDARD_ERRORS * error
    return replace(probe, bound=min(ceiling, max(FLOOR[probe.place.dtype], bound)))


def _fault_of_weights(probe: Probe, earlier: Sequence[Probe]) -> str | None:
    """What is wrong with the weights that an engine holds, if anything can be told."""
    if probe.weights == probe.checkpoint_weights:
        return None
    alike = [one for one in earlier if one.place == probe.place]
    for one in alike:
        if one.weights == probe.weights and one.checkpoint_weights != probe.checkpoint_weights:
            return f"it holds the weights of policy {one.policy_version_id}"
        if one.checkpoint_weights == probe.checkpoint_weights and one.weights != probe.weights:
            return "its weights are not those that it had of the same checkpoint before"
    if any(one.weights == one.checkpoint_weights for one in alike):
        return "its weights are not the checkpoint's"
    return None


def _told_of_weights(probe: Probe, policy: PolicyRef, fault: str, resume: str) -> str:
    return (
        f"{_told(probe, policy)}: {fault}. Its log-probabilities differ from the checkpoint's by {_size(probe)}. Nothing was "
        f"stored. Start a new engine, which reads the checkpoint's files: {resume}. If that ends in the same error, this engine "
        "cannot take this model's weights"
    )


def _told_of_logprobs(probe: Probe, policy: PolicyRef, tolerance: float | None, resume: str) -> str:
    dtype, mean, bound = probe.place.dtype, probe.differences.mean, probe.bound
    explained, other = _NEAR * bound, f"{2 * mean:.1g}"
    if tolerance is not None:
        source, explained, other = "sampler.probe_tolerance", CEILING[dtype], "measured"
    elif probe.calibration:
        source = f"the most that rounding to {dtype} explains"
    else:
        source = "from what was measured in this run before"
    text = (
        f"{_told(probe, policy)}: its log-probabilities differ from the checkpoint's by {_size(probe)}; the bound of the mean is "
        f"{bound:.2g}, {source}. Nothing was stored. "
    )
    if mean <= explained:
        return (
            f"{text}Rounding may explain that, or weights that are slightly wrong. If sampler_mismatch/mean in update_metric is "
            f"as large and is no trouble, accept it: {resume} --set sampler.probe_tolerance={other}"
        )
    return (
        f"{text}Rounding to {dtype} does not explain that: the engine's weights are wrong, or it computes wrongly with them. "
        f"Start a new engine, which reads the checkpoint's files: {resume}. If that ends in the same error, this engine cannot "
        "be used for this model"
    )


def _told(probe: Probe, policy: PolicyRef) -> str:
    place = probe.place
    return (
        f"{place.engine} (replica {probe.replica}, {place.dtype}, {place.device}) does not sample from policy "
        f"{policy.policy_version_id} ({policy.checkpoint})"
    )


def _size(probe: Probe) -> str:
    found = probe.differences
    return f"{found.mean:.2g} nats, mean of {found.n_tokens} tokens (largest {found.largest:.2g})"


def from_json(tree: Mapping[str, Any]) -> Probe:
    """A probe as `dataclasses.asdict` and JSON have it."""
    return Probe(**{**tree, "place": Place(**tree["place"]), "differences": Differences(**tree["differences"])})
