"""Commands of the command line that pages, alerts and the dashboard name."""

# The commands and options of the command line that may be named outside of its own page.
KNOWN = {
    "status": {"--failing"},
    "explain": set(),
    "trace": set(),
    "doctor": {"--aws"},
}


def unknown_words(command: str) -> list[str]:
    """Return the words of a command such as `keyturn status --failing` that the command line does not know."""
    program, name, *more = command.split()
    options = {word for word in more if word.startswith("-")}
    unknown = sorted(options - KNOWN.get(name, set()))
    return [*([program] if program != "keyturn" else []), *([name] if name not in KNOWN else []), *unknown]
