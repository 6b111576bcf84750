"""``python -m tapo_core`` is ``tapo``."""

from tapo_core.cli.main import main

main()
