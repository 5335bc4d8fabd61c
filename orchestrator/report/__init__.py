"""Build the report of a sweep from its plan and records alone, without Ray, MLflow or torch."""

from orchestrator.files import make_folder
from orchestrator.report.data.formatting import verdict_table
from orchestrator.report.write import ReportFiles, write_report

__all__ = ["ReportFiles", "make_folder", "verdict_table", "write_report"]
