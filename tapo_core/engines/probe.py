"""The probe: after every weight load, prove that the sampling engine holds the published checkpoint.

A few sequences are sampled from the engine, and their log-probabilities are recomputed by transformers from the checkpoint's
files. An engine that reports success and keeps old (or broken) weights is caught here, before anything is stored.
"""

from collections.abc import Sequence

from tapo_core.engines.hf import load_model
from tapo_core.engines.protocols import PolicyRef, Sampler, SampleRequest
from tapo_core.engines.scoring import response_logprobs
from tapo_core.errors import PolicyMismatchError


def probe(
    sampler: Sampler, policy: PolicyRef, requests: Sequence[SampleRequest], tolerance: float, dtype: str, device: str
) -> float:
    """Largest absolute log-probability difference (nats) between the engine, or any of its replicas, and the checkpoint, which
    is read on `device`.

    Raises:
        PolicyMismatchError: the difference is above `tolerance`, or not a number.
    """
    samples = [sample for answer in sampler.sample_on_each(requests) for sample in answer]
    prompts = [request.prompt_token_ids for request in requests] * (len(samples) // len(requests))
    model = load_model(policy.checkpoint, dtype, device)
    expected = response_logprobs(model, prompts, [s.token_ids_T for s in samples], requests[0].temperature)
    worst = max(
        abs(a - b)
        for sample, reference in zip(samples, expected, strict=True)
        for a, b in zip(sample.logprobs_T, reference, strict=True)
    )
    if not worst <= tolerance:
        raise PolicyMismatchError(
            f"{sampler.name} does not sample from policy {policy.policy_version_id}: log-probabilities differ by "
            f"{worst:.2e} nats from {policy.checkpoint} (sampler.probe_tolerance = {tolerance:.0e}). The engine kept "
            "other weights, or the precision needs a larger tolerance."
        )
    return worst
