"""Memory of a GPU, or of a machine without one, at the moments when most is held; and of the hosts. Bytes."""

from dataclasses import dataclass

from tapo_core.config import TapoConfig
from tapo_core.plan import training
from tapo_core.plan.layout import layout_of
from tapo_core.plan.machine import GIB, Machine
from tapo_core.plan.rates import measured
from tapo_core.plan.shape import ModelShape

#: Assumed, GPU: the CUDA context, NCCL's buffers, and what the allocator cannot use. Asleep, vLLM keeps its context and graphs.
RESERVE_GIB, ASLEEP_GIB = 3.0, 1.0
#: Assumed: CUDA graphs of vLLM, and the activations of its largest prefill.
VLLM_GRAPHS_GIB, VLLM_PREFILL_TOKENS = 1.0, 8192


@dataclass(frozen=True, slots=True)
class Need:
    """What is held at one moment. `parts` are bytes by what they are for."""

    where: str  #: GPU, sampler's GPU, trainer's GPU, host
    moment: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        """Bytes in all."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Cache:
    """vLLM's key-value cache on one engine."""

    bytes_of_engine: float  #: on each of its GPUs; not above 0 if the weights leave no room
    bytes_of_token: float
    tokens: int
    sequences: float  #: of sampler.max_model_len tokens each, at the same time


def cache_of(config: TapoConfig, shape: ModelShape, machine: Machine) -> Cache:
    """The key-value cache: on a GPU what gpu_memory_utilization leaves beside `vllm_fixed`; on a CPU kv_cache_gib."""
    layout = layout_of(config)
    a_token = shape.kv_bytes(layout.dtype_bytes, layout.tensor_parallel)
    if machine.gpu is None:
        room = config.sampler.kv_cache_gib * GIB
    else:
        room = config.sampler.gpu_memory_utilization * machine.gpu.memory_gib * GIB - vllm_fixed(config, shape)
    tokens = max(0, int(room / a_token))
    return Cache(room, a_token, tokens, tokens / config.sampler.max_model_len)


def vllm_fixed(config: TapoConfig, shape: ModelShape) -> float:
    """Bytes on each GPU of an engine beside its cache: weights, float32 logits (three copies), prefill, graphs (assumed)."""
    layout = layout_of(config)
    parallel = layout.tensor_parallel
    prefill = VLLM_PREFILL_TOKENS * layout.dtype_bytes * (2 * shape.ffn / parallel + 4 * shape.hidden)
    sampled = 3 * 4 * config.sampler.max_num_seqs * shape.vocabulary / parallel
    return shape.parameters * layout.dtype_bytes / parallel + prefill + sampled + VLLM_GRAPHS_GIB * GIB


def device_needs(config: TapoConfig, shape: ModelShape, machine: Machine) -> list[Need]:
    """What the fullest GPU holds at each moment; on a machine without one, the process."""
    layout = layout_of(config)
    whole = {"whole model": float(shape.parameters * layout.dtype_bytes)}
    trainer = training.states(shape, layout)
    if machine.gpu is None and layout.offload:  # it is the same memory
        trainer["Adam"] = float(training.adam_bytes(layout) * training.trained_parameters(shape, layout))
    reference = {"reference model": whole["whole model"]} if config.update.kl_coefficient > 0.0 else {}
    if machine.gpu is None:
        base = {"process": measured("process_gib").value * GIB}
        engine = whole["whole model"] + config.sampler.kv_cache_gib * GIB
        awake, asleep = engine, 0.0
        parked = {} if layout.sleep else {"trainer": sum(trainer.values())}
    else:
        base = {"reserve": RESERVE_GIB * GIB}
        awake = config.sampler.gpu_memory_utilization * machine.gpu.memory_gib * GIB
        asleep = ASLEEP_GIB * GIB
        parked = {"trainer": trainer["weights"] if layout.sleep else sum(trainer.values())}
    vllm = {"vLLM": asleep if layout.sleep else awake}
    if machine.gpu is not None and not layout.colocated:
        sampler, learner = "sampler's GPU", "trainer's GPU"
        parked, vllm = {}, {}
    else:
        sampler = learner = "host" if machine.gpu is None else "GPU"
    beside = reference if sampler == learner else {}
    sampling = {"vLLM": awake, **parked, **beside, **base}
    probe = {"probe": whole["whole model"]}
    activations = training.activations(shape, layout) + training.gradients_of_activations(shape, layout)
    update = {"activations": activations, "logits": training.logits(shape, layout)}
    stepping = training.step_gradients(shape, layout)  # the activations are gone by then
    if stepping > sum(update.values()):
        update = {"float32 gradients": stepping}
    # On Ray the run's own process reads the probe's model, on the host, where no engine has a GPU for it.
    probing = [] if layout.ray and machine.gpu is not None else [Need(sampler, "probing", {**sampling, **probe})]
    needs = [
        Need(sampler, "sampling", sampling),
        *probing,
        Need(learner, "updating", {**trainer, **update, **reference, **vllm, **base}),
    ]
    if layout.zero_stage == 3 and layout.ranks > 1:
        # Each rank loads the whole model before DeepSpeed takes its part of it.
        loading = {name: trainer[name] for name in ("weights", "Adam")}
        needs.append(Need(learner, "loading", {**whole, **loading, **reference, **vllm, **base}))
    return needs


def host_need(config: TapoConfig, shape: ModelShape, machine: Machine) -> Need:
    """Memory of the node with most ranks, beside a machine's GPUs.

    Offload: Adam's state and float32 gradients of its ranks. Sleep without offload: what the sleeping trainers put away. Loading:
    the weights, once for each rank. Of sleeping and loading the larger one counts, since they are not at the same time. On Ray
    the probe's model is on the node that the run's process is on.
    """
    layout = layout_of(config)
    on_node = min(layout.ranks, machine.gpus_per_node)
    trained = training.trained_parameters(shape, layout)
    share = trained * on_node / (layout.ranks if layout.zero_stage >= 1 else 1)
    engines = on_node + min(layout.replicas, machine.gpus_per_node) if layout.ray else 1
    parts = {"processes": engines * measured("process_gib").value * GIB}
    if layout.offload:
        parts["Adam"] = (training.adam_bytes(layout) + 4) * share
    loading = float(on_node * shape.parameters * layout.dtype_bytes)
    put_away = 0.0
    if layout.sleep and layout.colocated and not layout.offload:
        gradients = trained * layout.dtype_bytes * on_node / (layout.ranks if layout.zero_stage >= 2 else 1)
        put_away = training.adam_bytes(layout) * share + gradients
    if layout.ray:
        parts["probe"] = float(shape.parameters * layout.dtype_bytes)
    parts["weights while loading" if loading >= put_away else "the sleeping trainers"] = max(loading, put_away)
    return Need("host", "a node", parts)


def capacity(machine: Machine) -> float | None:
    """Bytes of one GPU, or of the machine where there is none; None: not known."""
    if machine.gpu is not None:
        return machine.gpu.memory_gib * GIB
    return None if machine.host_gib is None else machine.host_gib * GIB
