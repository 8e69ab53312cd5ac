"""The program `paperlab`, also as `python -m paperlab`."""

import gc


def main() -> None:
    """Run the command line."""
    gc.disable()  # a tenth of a listing's time would go into collections; commands that work for long enable it again
    from paperlab.cli import main as run

    run()


if __name__ == "__main__":
    main()
