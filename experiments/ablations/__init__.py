"""Forks: PARENT__CHANGE.py takes its parent's plan and replaces what it names.

    python -m experiments.ablations.finetune__no_mask --config.steps=2           # smoke test
    python -m experiments.ablations.finetune__no_mask --config=configs/cpu.py
    python -m experiments.studies.findings --forks=no_mask                       # beside its parent, three seeds each

Forks of own_data also need --config.pairs=FOLDER. The first line of a fork's docstring is its question; the line that
begins with "Hypothesis:" is what is expected. Both stand above its results.
"""
