"""Generated pages say what the code says."""

import pytest
from pydantic import BaseModel

from medssl.core.registry import OBJECTIVES
from pipelines._objective_pages import SECTIONS, page, parts
from pipelines.write_docs import ROOT, pages

SOUND = "Does it.\n\nIdea.\n\n" + "\n".join(f"{title}:\n    {title} text" for title in SECTIONS)


def test_generated_pages_are_up_to_date():
    made = pages()
    assert [path.name for path, text in made.items() if path.read_text() != text] == []
    written = {path for path in (ROOT / "docs" / "objectives").iterdir() if path not in made}
    assert written == set(), "pages of objectives that are gone"


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_a_page_has_all_sections_and_every_option(name):
    module, _ = OBJECTIVES.module(name)
    text = page(name, module)
    for title in (*SECTIONS, "Run it", "Options"):
        assert f"\n## {title}\n" in text
    assert len(parts(module.__doc__)[1]) <= 6
    assert all(f"`objective.{key}`" in text for key in keys(module.Config()))


def keys(config, prefix=""):
    for key, value in config:
        yield prefix + key
        if isinstance(value, BaseModel):
            yield from keys(value, f"{prefix}{key}.")


def test_parts_of_a_docstring():
    summary, idea, sections = parts(SOUND)
    assert (summary, idea) == ("Does it.", ["Idea."])
    assert sections == {title: [f"{title} text"] for title in SECTIONS}


@pytest.mark.parametrize("gone", ["Idea.", *(f"{title}:" for title in SECTIONS), "    Loss text"])
def test_a_missing_part_is_an_error(gone):
    with pytest.raises(ValueError, match="docstring needs"):
        parts(SOUND.replace(gone, ""))
