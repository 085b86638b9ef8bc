"""A run folder becomes one HTML page that needs no network.

metrics.jsonl, samples.jsonl, summary.json, config.yaml ─> charts.py, troubles.py ─┐
timeline.jsonl                                          ─> pools.py ───────────────┴> build.py + report.html ─> report.html
"""

from pipelines.monitoring.report.build import build_report

__all__ = ["build_report"]
