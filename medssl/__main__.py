"""``python -m medssl`` is the ``medssl`` command."""

from medssl.cli.main import main

if __name__ == "__main__":
    main()
