"""Words for people."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 Secret" or "2 Secrets"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
