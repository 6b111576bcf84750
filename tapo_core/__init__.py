"""TAPO: trajectory-augmented policy optimization (arXiv 2606.18844), with every trajectory in DuckDB."""

__version__ = "0.1.0"
