"""The stages of an iteration, as plain functions over a `Session`: each reads its inputs from the store, does its work, and
writes what it made in one transaction. Called again with the same inputs, a stage returns what it wrote the first time.

    start -> [ sample -> verify -> locate_error -> diagnose_and_correct -> filter_by_difficulty -> update_policy ] x N

Before training there may be

    start -> [ zpd_filter ] x chunks
    start -> [ sample -> verify -> locate_error -> diagnose_and_correct ] x chunks -> build_cold_start_data
          -> supervised_fine_tuning
"""
