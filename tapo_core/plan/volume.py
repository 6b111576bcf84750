"""How much a run makes: tokens an iteration, bytes of checkpoints and store."""

from dataclasses import dataclass

from tapo_core.config import TapoConfig
from tapo_core.plan.layout import layout_of
from tapo_core.plan.rates import measured
from tapo_core.plan.shape import ModelShape
from tapo_core.plan.training import adam_bytes, trained_parameters


@dataclass(frozen=True, slots=True)
class Expected:
    """What a configuration does not say. None: the largest that it allows."""

    mean_tokens: float | None = None  #: of a rollout; and the same share of the largest for other texts
    prompt_tokens: int = 200  #: of a query's prompt


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one iteration. At most, but for the means that `Expected` gives."""

    rollouts: int
    constructions: int  #: at most: every query eligible, with as many wrong rollouts as are taken
    rollout_tokens: float
    locating_tokens: float  #: sampled by the methods policy and continuation
    construction_tokens: float
    trained_tokens: float  #: prompts included, in one pass over the batch
    scored_tokens: float  #: prompts included: of constructions, and of rollouts unless the update is one step
    evaluation_rollouts: int  #: of one evaluation on the held-out queries
    evaluation_tokens: float

    @property
    def sampled(self) -> float:
        """Tokens that vLLM samples, evaluations apart."""
        return self.rollout_tokens + self.locating_tokens + self.construction_tokens


def tokens_of(config: TapoConfig, expected: Expected) -> Tokens:
    """Tokens of an iteration."""
    sampler, chosen = config.sampler, config.filter
    share = 1.0 if expected.mean_tokens is None else min(1.0, expected.mean_tokens / sampler.max_new_tokens)
    queries = config.data.queries_per_iteration
    rollouts = queries * sampler.rollouts_per_query
    wrong = min(chosen.m_max, sampler.rollouts_per_query - chosen.n_pos)
    constructions = queries * wrong if config.method == "tapo" else 0
    rollout_tokens = rollouts * sampler.max_new_tokens * share
    locate = config.locate_error
    locating = 0.0
    if "policy" in locate.methods:
        locating += constructions * locate.votes * locate.max_new_tokens
    if "continuation" in locate.methods:
        prefixes = 2 * locate.window + 2
        locating += constructions * prefixes * locate.continuations * sampler.max_new_tokens * share
    construction_tokens = constructions * config.correction.max_new_tokens * share
    original = rollout_tokens + rollouts * expected.prompt_tokens
    constructed = construction_tokens + constructions * expected.prompt_tokens
    evaluated = config.evaluation.queries * config.evaluation.samples
    return Tokens(
        rollouts,
        constructions,
        rollout_tokens,
        locating,
        construction_tokens,
        original + constructed,
        constructed if config.update.one_step else original + constructed,
        evaluated,
        evaluated * sampler.max_new_tokens * share,
    )


def evaluations(config: TapoConfig) -> int:
    """Evaluations of a run: before the first iteration, after the last, and as often between as evaluation.every says."""
    every, last = config.evaluation.every, config.run.iterations
    between = last // every if every else 0
    return 1 + between + (0 if every and last % every == 0 else 1)


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes at run.output_dir."""

    weights: float  #: of one policy version
    optimizer: float  #: of one DeepSpeed checkpoint
    versions: int  #: whose weights are there at the same time
    optimizers: int
    store: float  #: database and published files of the whole run
    rollouts: int  #: in the store, evaluations included

    @property
    def total(self) -> float:
        """At the end, or at the fullest moment."""
        return self.weights * self.versions + self.optimizer * self.optimizers + self.store


def disk_of(config: TapoConfig, shape: ModelShape, expected: Expected, keep: int | None) -> Disk:
    """Disk of a whole run.

    `keep`: as if `tapo gc --keep N --delete` ran after every iteration; those, the best, and the one that is being written are
    there. None: every version stays. Weights are written whole (adapters merged). DeepSpeed's checkpoint has the weights, but in
    stage 3, master weights and moments (measured: benchmarks/plan_states.py).
    """
    layout = layout_of(config)
    trained, iterations = trained_parameters(shape, layout), config.run.iterations
    weights = 0 if layout.zero_stage == 3 else layout.dtype_bytes * shape.parameters
    state = weights + adam_bytes(layout) * trained
    versions = iterations if keep is None else min(iterations, keep + 2)
    tokens = tokens_of(config, expected)
    n_evaluations = evaluations(config)
    rollouts = iterations * tokens.rollouts + n_evaluations * tokens.evaluation_rollouts
    texts = iterations * tokens.rollout_tokens + n_evaluations * tokens.evaluation_tokens
    store = rollouts * measured("store_rollout").value + texts * measured("store_token").value
    optimizers = min(iterations, config.update.keep_optimizer_states + 1)
    return Disk(float(layout.dtype_bytes * shape.parameters), float(state), versions, optimizers, store, rollouts)
