"""Prefect: servers, deployments, pages and limits."""
