"""What run folders show, held against the papers: tables, figures, verdicts and a page."""
