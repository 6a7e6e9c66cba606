"""The report of a run: charts, pictures and text."""
