"""The settings of params.yaml: schema, loading, editing and checks."""
