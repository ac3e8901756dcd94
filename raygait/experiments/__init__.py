"""MLflow: runs, their curves, and the model registry."""
