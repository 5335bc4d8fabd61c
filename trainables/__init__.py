"""One training run: models, tasks, training and pruning, without a store, Ray or MLflow.

It imports neither `orchestrator` nor `cluster`.
"""
