"""Verifiers by name: the built-in ones, and those that installed packages offer."""

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points

from tapo_core.config_verifier import VerifierConfig
from tapo_core.errors import ConfigError
from tapo_core.verification.base import Verifier
from tapo_core.verification.functions import FunctionVerifier
from tapo_core.verification.math import MathVerifier, Pair
from tapo_core.verification.nano import NanoVerifier

GROUP = "tapo.verifiers"
BUILT_IN = ("math", "nano", "code")


def make_verifier(
    settings: VerifierConfig, workers: int, known: Callable[[], Iterable[tuple[Pair, str]]] | None = None
) -> Verifier:
    """The verifier that the configuration names. Nothing is started yet. `known`: see `MathVerifier`.

    Raises:
        ConfigError: there is none of that name, or it cannot be loaded.
    """
    match settings.name:
        case "math":
            return MathVerifier(settings, workers, known)
        case "nano":
            return NanoVerifier()
        case "code":
            from tapo_core.verification.code import CodeVerifier

            return CodeVerifier(settings)
    offered = [entry for entry in entry_points(group=GROUP) if entry.name not in BUILT_IN]
    found = [entry for entry in offered if entry.name == settings.name]
    if not found:
        names = ", ".join([*BUILT_IN, *sorted(entry.name for entry in offered)])
        raise ConfigError(
            f"verifier.name = {settings.name!r}: there is none of that name; there are {names}. A package offers one by an entry "
            f"point of the group {GROUP}"
        )
    return _function(found[0])


def _function(entry: EntryPoint) -> FunctionVerifier:
    try:
        judge = entry.load()
    except Exception as error:
        raise ConfigError(f"verifier.name = {entry.name!r}: {entry.value} cannot be loaded: {error}") from error
    if not callable(judge):
        raise ConfigError(
            f"verifier.name = {entry.name!r}: {entry.value} is no function of query, gold answer and text"
        )
    # Of its package, unless it says itself.
    version = getattr(judge, "version", None) or (entry.dist.version if entry.dist else None)
    if not version:
        raise ConfigError(
            f"verifier.name = {entry.name!r}: {entry.value} has no version; give the function an attribute `version`"
        )
    return FunctionVerifier(entry.name, str(version), judge)
