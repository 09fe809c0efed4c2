"""The figures of a report, a file each, drawn for a wide page and for a phone."""
