"""What one training run is. It knows no store, no Ray and no MLflow.

It imports neither `orchestrator` nor `cluster`.
"""
