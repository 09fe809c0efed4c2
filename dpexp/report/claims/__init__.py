"""The claims of paper A, judged on the runs of a report."""
