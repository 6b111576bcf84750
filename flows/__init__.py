"""The flows: what can be scheduled from the Prefect UI."""

from tapo_core.network import keep_loopback_direct

keep_loopback_direct()  # before Prefect, which is imported next, makes a client
