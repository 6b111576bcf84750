"""Write infra/requirements-cpu.lock from what is installed in this environment."""

import importlib.metadata
from pathlib import Path

#: Not locked: this project, the installer, and what breaks a CPU environment (see infra/setup.sh).
LEFT_OUT = {"tapo", "pip", "torchvision", "torchaudio", "torchcodec", "triton", "flash-attn"}
HEADER = """\
# Every package that `make setup` installs, on a CPU machine (Python 3.11, Linux x86-64).
# Renewed with `make lock` after changing pyproject.toml; never by hand.
"""


def main() -> None:
    """Replace the file."""
    pins = {
        distribution.metadata["Name"].lower(): f"{distribution.metadata['Name']}=={distribution.version}"
        for distribution in importlib.metadata.distributions()
    }
    lines = [pin for name, pin in sorted(pins.items()) if name not in LEFT_OUT]
    path = Path(__file__).with_name("requirements-cpu.lock")
    path.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path}: {len(lines)} packages")


if __name__ == "__main__":
    main()
