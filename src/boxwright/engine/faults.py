"""What the check of the training data found, and what becomes of it."""

from boxwright.data.report import Report
from boxwright.errors import InputError

SHOWN = 3  # faults named in a message


def refuse(report: Report, root: str, skip: bool) -> None:
    """InputError when there are errors that are not to be skipped."""
    if report.errors and not skip:
        first = "; ".join(str(fault) for fault in report.errors[:SHOWN])
        raise InputError(
            f"{root}: {len(report.errors)} faults in the labels and pictures ({first}); see them all with "
            f"`boxwright data check {root}`, then repair them, or leave them out with --skip-bad"
        )
