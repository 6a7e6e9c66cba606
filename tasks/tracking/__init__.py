"""MLflow: runs, their journals and metrics."""
