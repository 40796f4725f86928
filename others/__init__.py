"""Tools around the two mini-projects."""
import sys


def tell(kind: type, error: BaseException, traceback) -> None:
    """In place of a traceback: one line for a package that is missing, none for Ctrl-C."""
    if issubclass(kind, KeyboardInterrupt):
        sys.exit(130)               # what a shell gives for it
    if issubclass(kind, ModuleNotFoundError):
        print(f'error: {error}: pip install -r others/requirements.txt', file=sys.stderr)
        sys.exit(2)
    sys.__excepthook__(kind, error, traceback)


if sys.argv[0] == '-m':             # so it is while `python -m others.NAME` looks for NAME, before NAME's own imports
    sys.excepthook = tell
