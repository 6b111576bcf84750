"""The trajectory viewer: pages about runs, served on loopback by ``tapo view``.

Pages only read, and only snapshots (`tapo_core.store`). Texts of models and data are escaped by the templates, always.
"""
