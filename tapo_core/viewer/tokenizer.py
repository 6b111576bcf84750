"""The run's own tokenizer, so that a page can show what each token says. It is read from ``tokenizer.json`` alone."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from tapo_core.records import PolicyVersion
from tapo_core.text import one_line
from tapo_core.viewer.spans import Decode

_FILE = "tokenizer.json"


def find_tokenizer(run_folder: Path, policies: Sequence[PolicyVersion]) -> tuple[Decode | None, str | None]:
    """How to decode tokens, or why that cannot be done. `policies`: where to look, in this order; all have the same tokenizer."""
    files = [run_folder / version.checkpoint_path / _FILE for version in policies]
    there = next((file for file in files if file.is_file()), None)
    if there is None:
        looked = " and ".join(dict.fromkeys(str(file) for file in files)) or "no checkpoint at all"
        return None, f"Tokens are listed by their place: the tokenizer is not there any more (looked for {looked})."
    try:
        return _decoder(there, there.stat().st_mtime_ns), None
    except Exception as error:  # noqa: BLE001 - the library raises Exception itself
        return None, f"Tokens are listed by their place: {there} cannot be read ({one_line(error)})."


@lru_cache(maxsize=8)
def _decoder(file: Path, _changed: int) -> Decode:
    """What `tapo_core.chat.Chat.decode` does, without transformers, which takes seconds to import."""
    tokenizer = Tokenizer.from_file(str(file))

    def decode(token_ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))

    return decode
