"""What the page of a flow run shows in Prefect: verdict, stages, links."""

from __future__ import annotations

from typing import Any

from tasks.tracking.runs import run_page


def show_verdict(gate: dict[str, Any]) -> None:
    """Put what the gate, or a human after it, decided on the run's page."""
    from prefect.artifacts import create_markdown_artifact

    reasons = "\n".join(f"- {reason}" for reason in gate["reasons"])
    again = ", as before" if gate["repeated"] else ""
    create_markdown_artifact(
        f"# {gate['name']} version {gate['version']}: {gate['outcome']}{again}\n\n{reasons}\n",
        key="verdict",
        description=gate["outcome"],
    )


def show_on_page(result: dict[str, Any], tracking_uri: str) -> None:
    """Put a run's verdict, its stages with the main numbers, and a link to MLflow on its page."""
    from prefect.artifacts import create_link_artifact, create_table_artifact

    show_verdict(result["gate"])
    create_table_artifact(
        [
            {"stage": stage["stage"], "status": stage["status"], "seconds": round(stage["seconds"])}
            for stage in result["stages"]
        ],
        key="stages",
        description="cached: unchanged, or restored from DVC's cache",
    )
    metrics = result["metrics"]
    rows = {"pretrained": metrics["pretrained"]["accuracy"], "gain": metrics["gain"]}
    rows["from scratch"] = metrics["scratch"]["accuracy"]
    create_table_artifact(
        [
            {"what": what, **{k: row[k] for k in ("mean", "low", "high")}}
            for what, row in rows.items()
        ],
        key="accuracy",
        description=f"on the test set, with {metrics['labels']} labels; 95% intervals",
    )
    page = run_page(tracking_uri, result["registered"]["run"])
    if page:
        create_link_artifact(page, link_text="The run in MLflow", key="mlflow")
