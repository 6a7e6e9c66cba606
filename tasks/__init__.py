"""The steps flows are made of: stages run by DVC, and services around MLflow and git."""
