"""`Sampler` over several engines, each an actor on a Ray cluster, that share what is to be sampled."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from tapo_core.config import SamplerConfig
from tapo_core.engines.environment import prepare_environment
from tapo_core.engines.probe import CEILING, differences
from tapo_core.engines.protocols import HeldWeights, PolicyRef, Sample, SampleRequest
from tapo_core.engines.ray_cluster import RayCluster, beat_for
from tapo_core.engines.streaming import make_sampler
from tapo_core.engines.weight_transfer import PATIENCE, Member, TensorHeader, headers
from tapo_core.errors import PolicyMismatchError, TransientError, UserError
from tapo_core.progress import current_reporter

if TYPE_CHECKING:
    from tapo_core.engines.vllm_sampler import VllmSampler


class Replica:
    """What runs in a process of its own: one engine."""

    def __init__(self, config: SamplerConfig, dtype: str, sleeps: bool, receives: bool, pulse: Any) -> None:
        """`pulse`: told of progress (`ray_cluster.Pulse`)."""
        beat_for(pulse)
        prepare_environment(vllm=config.engine == "vllm")
        self._sampler = make_sampler(config, dtype, sleeps, receives)

    def load_policy(self, policy: PolicyRef) -> tuple[str, str | None]:
        """The engine's name, and the policy version it holds now."""
        self._sampler.load_policy(policy)
        return self._sampler.name, self._sampler.policy_version_id

    def join_weight_group(self, member: Member) -> None:
        """See `VllmSampler.join_weight_group`."""
        self._receiver.join_weight_group(member)

    def receive_policy(self, policy_version_id: str, expected: Sequence[TensorHeader]) -> tuple[str, str | None]:
        """Take a policy that is sent; the engine's name, and the policy version it holds now."""
        self._receiver.receive_policy(policy_version_id, expected)
        return self._sampler.name, self._sampler.policy_version_id

    @property
    def _receiver(self) -> "VllmSampler":
        from tapo_core.engines.vllm_sampler import VllmSampler

        assert isinstance(self._sampler, VllmSampler), "the configuration sends weights to vLLM alone"
        return self._sampler

    @ray.method(num_returns="streaming")
    def stream(self, requests: Sequence[SampleRequest]) -> Iterator[list[tuple[int, Sample]]]:
        """See `StreamingSampler.stream`."""
        yield from self._sampler.stream(requests)

    def weights(self) -> HeldWeights:
        """See `StreamingSampler.weights`."""
        return self._sampler.weights()

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """See `StreamingSampler.sample`."""
        return self._sampler.sample(requests)

    def sleep(self) -> None:
        """See `StreamingSampler.sleep`."""
        self._sampler.sleep()

    def process_id(self) -> int:
        """Of the process, on its machine."""
        return os.getpid()


class RaySampler:
    """`Sampler` over `cluster.sampler_replicas` engines (see `engines.protocols.Sampler`).

    Queries are dealt to the replicas, all rollouts of one to the same. A replica that dies is started again, shown to hold the
    same policy, and given what it had not finished; `cluster.restarts` is how often in one call.
    """

    def __init__(
        self, cluster: RayCluster, config: SamplerConfig, dtype: str, sender: Callable[[str], Any] = lambda _: None
    ) -> None:
        """`sender`: the actor that can send a policy version now (`ray_trainer.Rank`), or None; for `weight_transfer`."""
        self.name = "not started"  # the replicas tell theirs
        self._cluster = cluster
        self._config = config
        self._dtype = dtype
        self._replicas: list[Any] = []
        self._policy: PolicyRef | None = None
        self._policy_version_id: str | None = None
        self._held: HeldWeights | None = None
        self._probed: tuple[Sequence[SampleRequest], list[Sample]] | None = None
        self._restarts_left = 0
        self._sender = sender
        # Who is in the group in which weights are sent: the sender, and every replica.
        self._group: tuple[Any, ...] = ()

    @property
    def policy_version_id(self) -> str | None:
        """The policy version that every replica holds."""
        return self._policy_version_id

    @property
    def process_ids(self) -> list[int]:
        """Of the replicas."""
        return [ray.get(replica.process_id.remote()) for replica in self._replicas]

    def load_policy(self, policy: PolicyRef) -> None:
        """Give the checkpoint to every replica, starting those that are not there."""
        self._policy_version_id = self._held = self._probed = None
        # The replicas' working directory is not ours.
        self._policy = policy = replace(policy, checkpoint=policy.checkpoint.absolute(), optimizer=None)
        self._restarts_left = self._cluster.config.restarts
        self._cluster.start()
        try:
            sent = self._send(policy)
            if sent is not None:
                self._take(policy, sent)
                self._policy_version_id = policy.policy_version_id
                return
            for number in range(len(self._replicas), self._cluster.config.sampler_replicas):
                self._replicas.append(self._start(number))
            calls = {replica.load_policy.remote(policy): n for n, replica in enumerate(self._replicas)}
            answers = []
            for call, number in calls.items():
                try:
                    answers.append(ray.get(call))
                except RayActorError as error:
                    answers.append(self._restart(number, error))
            self._take(policy, answers)
        except BaseException as error:  # noqa: BLE001 - raised again, as what it is
            self.close()
            raise own_error(error) from None
        self._policy_version_id = policy.policy_version_id

    def _send(self, policy: PolicyRef) -> list[tuple[str, str | None]] | None:
        """Have the policy sent to every replica; what each answers. None: it has to be read from the files."""
        if self._cluster.config.weight_transfer == "files" or not self._replicas:
            return None
        sender = self._sender(policy.policy_version_id)
        if sender is None:
            return None
        expected = headers(policy.checkpoint)
        try:
            if self._group != (sender, *self._replicas):
                self._make_group(sender)
            shared = ray.put(expected)
            calls = [r.receive_policy.remote(policy.policy_version_id, shared) for r in self._replicas]
            calls.append(sender.send.remote("send", policy.checkpoint))
            # As long as a transfer can take: every member waits for every tensor with this patience.
            *answers, _ = ray.get(calls, timeout=PATIENCE.total_seconds() * (1 + len(expected)))
        except RayError as error:
            self._group = ()
            current_reporter().note(
                f"policy {policy.policy_version_id} could not be sent to the sampler's replicas, which read its files instead: "
                f"{first_line(own_error(error))}"
            )
            return None
        return answers

    def _make_group(self, sender: Any) -> None:
        """Have the sender and every replica's workers join a group."""
        self._group = ()
        patience = 2 * PATIENCE.total_seconds()  # a member may have to give up another transfer first
        each = self._config.tensor_parallel_size
        size = 1 + each * len(self._replicas)
        address, port = ray.get(sender.send.remote("offer"), timeout=patience)
        joining = [sender.send.remote("join", size)]
        for number, replica in enumerate(self._replicas):
            joining.append(replica.join_weight_group.remote(Member(address, port, 1 + each * number, size)))
        ray.get(joining, timeout=patience)
        self._group = (sender, *self._replicas)

    def _take(self, policy: PolicyRef, answers: Sequence[tuple[str, str | None]]) -> None:
        """See that all replicas are of one kind and hold the policy."""
        names = sorted({name for name, _ in answers})
        if len(names) > 1:
            raise UserError(
                f"the sampler's replicas have different engines: {', '.join(names)}; give every node one image"
            )
        wrong = [held for _, held in answers if held != policy.policy_version_id]
        if wrong:
            raise PolicyMismatchError(f"a replica holds policy {wrong[0]} instead of {policy.policy_version_id}")
        self.name = names[0]

    def _start(self, number: int) -> Any:
        options = self._cluster.sampler_options(number)
        remote: Any = ray.remote(Replica).options(**options)
        config = self._cluster.config
        receives = config.weight_transfer == "direct"
        return remote.remote(self._config, self._dtype, config.sleep, receives, self._cluster.pulse)

    def _restart(self, number: int, error: RayActorError) -> tuple[str, str | None]:
        """A new replica in place of one that died, with the policy; what it answers to `load_policy`."""
        if self._restarts_left == 0:
            raise TransientError(
                f"replica {number} of the sampler died, the last of more than cluster.restarts = "
                f"{self._cluster.config.restarts} in one call: {first_line(error)}"
            ) from error
        self._restarts_left -= 1
        current_reporter().note(f"replica {number} of the sampler died and is started again: {first_line(error)}")
        try:
            self._replicas[number] = self._start(number)
            answer: tuple[str, str | None] = ray.get(self._replicas[number].load_policy.remote(self._policy))
        except RayActorError as again:
            return self._restart(number, again)
        return answer

    def sample(self, requests: Sequence[SampleRequest], progress: Callable[[int], None] | None = None) -> list[Sample]:
        """Sample every request, in order."""
        dealt = deal(requests, len(self._replicas))
        samples: dict[int, Sample] = {}
        for finished in self._stream(requests, dealt):
            samples.update(finished)
            if progress is not None:
                progress(len(samples))
        return [samples[i] for i in range(len(requests))]

    def sample_on_each(self, requests: Sequence[SampleRequest]) -> list[list[Sample]]:
        """Every replica's samples of the requests; they are kept, to compare a restarted replica's with."""
        n = len(requests)
        dealt = [range(start, start + n) for start in range(0, n * len(self._replicas), n)]
        samples: dict[int, Sample] = {}
        for finished in self._stream([*requests] * len(dealt), dealt):
            samples.update(finished)
        answers = [[samples[i] for i in own] for own in dealt]
        self._probed = requests, answers[0]
        return answers

    def weights_on_each(self) -> list[HeldWeights]:
        """What every replica holds; it is kept, to compare a restarted replica's with."""
        try:
            answers: list[HeldWeights] = ray.get([replica.weights.remote() for replica in self._replicas])
        except BaseException as error:  # noqa: BLE001 - raised again, as what it is
            self.close()
            raise own_error(error) from None
        self._held = answers[0]
        return answers

    def _stream(
        self, requests: Sequence[SampleRequest], dealt: Sequence[Sequence[int]]
    ) -> Iterator[list[tuple[int, Sample]]]:
        """Sample each replica's share; yields what is finished, whoever finished it."""
        if self._policy_version_id is None:
            raise RuntimeError("load_policy comes before sample")
        self._restarts_left = self._cluster.config.restarts
        done: set[int] = set()
        streams: dict[Any, tuple[int, Sequence[int]]] = {}

        def begin(number: int, share: Sequence[int]) -> None:
            stream = self._replicas[number].stream.remote([requests[i] for i in share])
            streams[stream] = (number, share)

        try:
            for number, share in enumerate(dealt):
                begin(number, share)
            while streams:
                (stream, *_), _ = ray.wait(list(streams), num_returns=1, fetch_local=False)
                number, share = streams[stream]
                try:
                    finished = [(share[i], sample) for i, sample in ray.get(next(stream))]
                except StopIteration:
                    del streams[stream]
                    continue
                except RayActorError as error:
                    del streams[stream]
                    self._replace(number, error)
                    begin(number, [i for i in share if i not in done])
                    continue
                done.update(i for i, _ in finished)
                yield finished
        except BaseException as error:  # noqa: BLE001 - raised again, as what it is
            self.close()
            raise own_error(error) from None

    def _replace(self, number: int, error: RayActorError) -> None:
        """Put a new replica in place of one that died while sampling, shown to sample what the others do."""
        assert self._policy is not None
        self._take(self._policy, [self._restart(number, error), (self.name, self._policy.policy_version_id)])
        replica = self._replicas[number]
        if self._held is not None and ray.get(replica.weights.remote()).fingerprint != self._held.fingerprint:
            raise PolicyMismatchError(
                f"replica {number} of the sampler, started again, does not hold the weights of policy "
                f"{self._policy.policy_version_id} that the other replicas hold; resume the run to start all of them again"
            )
        if self._probed is None:
            return
        requests, expected = self._probed
        mean = _difference(ray.get(replica.sample.remote(requests)), expected)
        tolerance = self._config.probe_tolerance
        most = tolerance if isinstance(tolerance, float) else CEILING[self._dtype]
        if not mean <= most:
            raise PolicyMismatchError(
                f"replica {number} of the sampler, started again, does not sample like the one that was probed: "
                f"log-probabilities differ by {mean:.2g} nats in the mean, and {most:.2g} is the most (sampler.probe_tolerance)"
            )

    def sleep(self) -> None:
        """Let every replica give back its device's memory."""
        self._policy_version_id = None
        if self._replicas:  # Ray would start itself for nothing
            ray.get([replica.sleep.remote() for replica in self._replicas])

    def close(self) -> None:
        """End the replicas."""
        self._policy_version_id = self._held = self._probed = None
        if ray.is_initialized():
            for replica in self._replicas:
                ray.kill(replica)
        self._replicas = []
        self._group = ()


def deal(requests: Sequence[SampleRequest], n_replicas: int) -> list[list[int]]:
    """Each replica's requests (indices): those with one prompt go together, to the replica with the fewest tokens so far."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        by_prompt.setdefault(tuple(request.prompt_token_ids), []).append(index)
    shares: list[list[int]] = [[] for _ in range(n_replicas)]
    tokens = [0] * n_replicas
    for indices in by_prompt.values():
        replica = tokens.index(min(tokens))
        shares[replica] += indices
        tokens[replica] += sum(len(requests[i].prompt_token_ids) + requests[i].max_new_tokens for i in indices)
    return shares


def _difference(found: Sequence[Sample], expected: Sequence[Sample]) -> float:
    """Mean |difference| of log-probabilities (nats) over the tokens that each two samples have in common, before they part."""
    shared = []
    for one, other in zip(found, expected, strict=True):
        pairs = zip(one.token_ids_T, other.token_ids_T, strict=False)
        n = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        shared.append((replace(one, logprobs_T=one.logprobs_T[:n]), other.logprobs_T[:n]))
    if not any(logprobs for _, logprobs in shared):
        return math.inf
    return differences(*zip(*shared, strict=True)).mean


def first_line(error: BaseException) -> str:
    """What Ray says first of an error that it describes in many lines."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def own_error(error: BaseException) -> BaseException:
    """What an engine raised, without Ray's wrapping; the death of its process as an error that may pass."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        return error.cause
    if isinstance(error, RayActorError):
        died = TransientError(f"an engine's process died: {first_line(error)}")
        died.__cause__ = error
        return died
    return error
