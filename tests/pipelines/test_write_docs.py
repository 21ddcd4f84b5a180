"""Generated pages say what the code says."""

import pytest

from pipelines.write_docs import pages


@pytest.mark.parametrize(("path", "text"), pages().items(), ids=lambda v: getattr(v, "name", ""))
def test_generated_pages_are_up_to_date(path, text):
    assert path.read_text() == text, "run `make docs`"
