"""The flows: what can be scheduled from the Prefect UI."""
