"""What a person or a schedule starts. The only room that knows Prefect; it computes nothing."""
