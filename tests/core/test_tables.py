"""Tables of spreadsheets: read with their mark, refused in other letters."""

import pytest

from medssl.core.errors import UsageError
from medssl.core.tables import open_table

TEXT = 'case,patient\r\na,"Müller\nII"\r\n'


@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig"])
def test_a_table_is_read_with_or_without_its_mark_and_keeps_its_line_ends(tmp_path, code):
    (tmp_path / "t.csv").write_bytes(TEXT.encode(code))
    with open_table(tmp_path / "t.csv") as file:
        assert file.read() == TEXT


@pytest.mark.parametrize("code", ["latin-1", "cp1252", "utf-16"])
def test_other_letters_are_refused_with_what_to_do(tmp_path, code):
    (tmp_path / "t.csv").write_bytes(TEXT.encode(code))
    with pytest.raises(UsageError, match="not in UTF-8") as error:
        open_table(tmp_path / "t.csv")
    assert "CSV UTF-8" in error.value.fix
