"""One training run: models, tasks, training and pruning, without a store, Ray or MLflow.

It imports neither `orchestrator` nor `cluster`.

Two papers, and their code, are cited by a short name:

* VLT: Gan et al. 2022, "Playing Lottery Tickets with Vision and Language".
* BERT-Tickets: Chen et al. 2020, "The Lottery Ticket Hypothesis for Pre-trained BERT Networks".
"""
