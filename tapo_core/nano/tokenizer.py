"""The nano tokenizer: a byte-level BPE of exactly `VOCAB_SIZE` tokens, as a Hugging Face fast tokenizer.

Three properties matter to training and are tested:

* Any text encodes, and decodes to itself.
* Whole numbers and newlines are cut out before the merges: each integer 0..99 is one token wherever it stands.
* A line end is always a token boundary, so a prefix of whole lines has a prefix of the tokens. A kept erroneous prefix of a
  rollout therefore keeps its sampled tokens.
"""

import random
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tapo_core.nano.examples import Shares, sample_example, task_templates
from tapo_core.nano.families import FAMILIES
from tapo_core.nano.task import LEVELS, MAX_NUMBER

VOCAB_SIZE = 512
MAX_LENGTH = 1024
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
PAD_ID, START_ID, END_ID = 0, 1, 2

#: ChatML, as Qwen writes it, without a default system message.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

_CORPUS_EXAMPLES = 1000
_CORPUS_SEED = 0
_CORPUS_SHARES = Shares(slip=0.2, notice=0.5, construction=0.4)


def _corpus() -> Iterator[str]:
    """Generated text on all families and levels. Fixed: every nano model has the same tokenizer."""
    rng = random.Random(_CORPUS_SEED)
    mix = [(name, level) for name in FAMILIES for level in LEVELS]
    templates = task_templates()
    for _ in range(_CORPUS_EXAMPLES):
        example = sample_example(mix, _CORPUS_SHARES, templates, rng)
        yield f"user\n{example.prompt}\nassistant\n{example.completion}"
    # Every number often enough that it is merged before any rare phrase is.
    for _ in range(_CORPUS_EXAMPLES):
        yield "\n".join(str(number) for number in range(MAX_NUMBER + 1))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer; the result is the same every time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[0-9]+|\n"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )
