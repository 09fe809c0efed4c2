"""The report as one HTML file: no network, no script, no other file."""
