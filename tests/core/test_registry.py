"""Members are found by file name, without importing them."""

import pytest

from medssl.core import registry
from medssl.core.errors import ConfigError
from medssl.core.registry import Registry


@pytest.fixture
def room(tmp_path, monkeypatch):
    folder = tmp_path / "objectives"
    folder.mkdir()
    (folder / "mae.py").write_text('"""Masked autoencoding.\n\nMore.\n"""\nimport nosuchmodule\n')
    (folder / "vit.py").write_text('"""Transformer."""\nVARIANTS = ("s", "b")\n')
    (folder / "losses.py").write_text('"""A part, no member."""\n')
    (folder / "_parts.py").write_text("1 / 0\n")
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(registry, "PACKAGE_ROOT", tmp_path)
    return Registry("objectives", helpers=("losses",))


def test_listing_reads_names_and_summaries_and_imports_nothing(room):
    assert room.names() == ["mae", "vit-s", "vit-b"]
    assert [entry.summary for entry in room.entries] == ["Masked autoencoding.", "Transformer."]


@pytest.mark.parametrize(
    "name", ["maee", "losses", "vit", "vit-xl", "_parts", "__init__", "../core/config"]
)
def test_unknown_names_are_refused_with_the_right_ones(room, name):
    with pytest.raises(ConfigError) as caught:
        room.module(name)
    assert "mae" in caught.value.fix or "vit" in caught.value.fix


@pytest.mark.parametrize(
    "found", [registry.OBJECTIVES, registry.ENCODERS, registry.HEADS, registry.READERS]
)
def test_every_member_has_a_summary_of_one_line(found):
    assert found.entries
    for entry in found.entries:
        assert entry.summary.endswith(".")
        assert len(entry.summary) <= 100
