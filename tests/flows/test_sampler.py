"""The vLLM engine by itself."""

from pathlib import Path

import pytest
from safetensors import SafetensorError

from tapo_core.assets import resolve_assets
from tapo_core.config import SamplerConfig
from tapo_core.engines.hf import load_model
from tapo_core.engines.protocols import PolicyRef, SampleRequest
from tapo_core.engines.vllm_sampler import VllmSampler
from tests.flows.conftest import Configure


def resident_gib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**30


def test_a_closed_engine_frees_its_cache_and_starts_again(configure: Configure) -> None:
    policy = PolicyRef("p", resolve_assets(configure("engine")).model)
    sampler = VllmSampler(SamplerConfig(kv_cache_gib=2.0), "float32")
    request = SampleRequest([1, 5, 6, 7], seed=3, max_new_tokens=8, temperature=1.0, top_p=1.0)
    samples = []
    for _ in range(2):
        sampler.load_policy(policy)
        samples.append(sampler.sample([request]))
        held = resident_gib()
        sampler.close()
        assert held - resident_gib() > 1.5
        assert sampler.policy_version_id is None
    assert samples[0] == samples[1]


def test_a_reload_that_breaks_off_spoils_nothing(checkpoint: Path, tmp_path: Path) -> None:
    load_model(checkpoint, "float32", "cpu").save_pretrained(tmp_path, max_shard_size="100KB")
    *_, last = sorted(tmp_path.glob("*.safetensors"))
    last.write_bytes(last.read_bytes()[:-100])
    policy, request = PolicyRef("p", checkpoint), SampleRequest([1, 5, 6, 7], 3, 8, temperature=1.0, top_p=1.0)
    sampler = VllmSampler(SamplerConfig(), "float32")
    sampler.load_policy(policy)
    expected = sampler.sample([request])
    for closed in (False, True):
        with pytest.raises(SafetensorError):
            sampler.load_policy(PolicyRef("broken", tmp_path))
        assert sampler.policy_version_id is None
        if closed:  # the next engine of this process shares layers with it
            sampler.close()
        sampler.load_policy(policy)
        assert sampler.sample([request]) == expected
    sampler.close()
