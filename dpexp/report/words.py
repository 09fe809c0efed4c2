"""Words that tables, figures and the page share."""


def count(number: int, word: str) -> str:
    """Return a number and its word, in the plural where it is one: 1 run, 2,000 runs."""
    return f"{number:,} {word}{'s' * (number != 1)}"
