"""Counts in words, as messages and tables say them."""


def counted(number: int, noun: str) -> str:
    """So many of them: "1 patient", "2,100 slices"."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}" + ("" if number == 1 else plural)
