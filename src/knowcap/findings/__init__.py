"""Findings: sweep files with statements of what their results are expected to show, and the verdicts of results."""

from knowcap.findings.file import Finding, load_finding, packaged_findings, read_finding
from knowcap.findings.statement import Statement
from knowcap.findings.verdicts import Judged, Verdict, judge


__all__ = ["Finding", "Judged", "Statement", "Verdict", "judge", "load_finding", "packaged_findings", "read_finding"]
