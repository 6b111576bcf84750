"""Peak memory of log p of T tokens at a vocabulary of 151,936: in chunks, with all logits at once, and of the model's body alone.

    .venv/bin/python benchmarks/logprob_memory.py

Each figure is the peak resident size of a fresh process, less what it had before the pass. The model is a Qwen3 of one layer of
width 64, so that its own activations are small. CPU, float32; with all logits at once only short texts fit into memory.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

VOCABULARY = 151_936
LONG, SHORT = (2048, 4096, 8192, 16384), (128, 256, 512, 1024)


def peak(kind: str, n_tokens: int, gradient: bool, chunk: int = 256) -> int:
    """Bytes that one pass over `n_tokens` adds to the peak of a fresh process. `kind`: chunked, whole or body."""
    command = [sys.executable, __file__, "--measure", kind, str(n_tokens), str(int(gradient)), str(chunk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return int(done.stdout.split()[-1])


def _resident(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def measure(kind: str, n_tokens: int, gradient: bool, chunk: int) -> int:
    """One pass in this process."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from tapo_core.engines.scoring import Scorer

    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=64,
            tie_word_embeddings=True,
            max_position_embeddings=32768,
        )
    )
    scorer = Scorer(model, "benchmark")
    for (
        parameter
    ) in model.parameters():  # gradients are there before, as they are in training after the first micro-batch
        parameter.grad = torch.zeros_like(parameter) if gradient else None
    ids = torch.randint(VOCABULARY, (1, n_tokens))
    before = _resident("VmRSS")
    with torch.set_grad_enabled(gradient):
        if kind == "body":
            loss = model.model(ids, use_cache=False).last_hidden_state.sum()
        elif kind == "chunked":
            loss = scorer.scores(model, ids, torch.ones(1, n_tokens - 1), 0.9, chunk).logprobs.sum()
        else:
            logits = model(ids, use_cache=False).logits[:, :-1].float() / 0.9
            loss = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None]).sum()
        if gradient:
            loss.backward()
    return _resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs=4, metavar=("KIND", "TOKENS", "GRADIENT", "CHUNK"), help="one pass, in here")
    parser.add_argument("--chunk", type=int, default=256, help="tokens in a chunk")
    arguments = parser.parse_args()
    if arguments.measure:
        kind, n_tokens, gradient, chunk = arguments.measure
        print(measure(kind, int(n_tokens), bool(int(gradient)), int(chunk)))
        return
    print("| | gradient | MiB at T tokens | KB a token |\n|---|---|---|---|")
    for gradient in (False, True):
        for kind, sizes in (("chunked", LONG), ("body", LONG), ("whole", SHORT)):
            peaks = [peak(kind, n, gradient, arguments.chunk) for n in sizes]
            told = ", ".join(f"{p / 2**20:.0f} at {n}" for n, p in zip(sizes, peaks, strict=True))
            slope = (peaks[-1] - peaks[0]) / (sizes[-1] - sizes[0]) / 1000
            print(f"| {kind} | {'yes' if gradient else 'no'} | {told} | {slope:.2f} |", flush=True)


if __name__ == "__main__":
    main()
