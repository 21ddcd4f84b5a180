"""Coverage-guided fuzzing of one reader: ``python -m tests.fuzz.guided nifti -max_total_time=60``.

Needs atheris. What it finds belongs into regressions.py.
"""

import sys
import tempfile


def main(reader, options):
    """Search until a read contradicts its file, or the time is over."""
    import atheris

    with atheris.instrument_imports(include=["medssl.readers"]):
        from medssl.readers import _dispatch  # noqa: F401 - imported to be instrumented

    atheris.Setup([sys.argv[0], *options], target(reader, atheris))
    atheris.Fuzz()


def target(reader, atheris):
    """A function of bytes that raises where a read contradicts its file."""
    from tests.fuzz.run import run_folder
    from tests.fuzz.seeds import seeds_of

    seeds = [files for _, files in sorted(seeds_of(reader).items())]

    def one_input(data):
        provider = atheris.FuzzedDataProvider(data)
        files = dict(provider.PickValueInList(seeds))
        name = provider.PickValueInList(sorted(files))
        content = bytearray(files[name])
        for _ in range(provider.ConsumeIntInRange(1, 8)):
            at = provider.ConsumeIntInRange(0, len(content) - 1)
            content[at] = provider.ConsumeIntInRange(0, 255)
        files[name] = bytes(content)
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_folder(folder, files)
        if outcome.lost or outcome.wrong:
            raise AssertionError(outcome)

    return one_input


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
