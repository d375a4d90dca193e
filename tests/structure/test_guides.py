"""The guides under docs/guides are programs: their blocks run, and print what they say."""

from __future__ import annotations

import contextlib
import io
import re

import pytest

from tools.source_tree import ROOT

GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
_BLOCK = re.compile(r"^```(python|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda p: p.stem)
def test_a_guide_runs_from_top_to_bottom(guide):
    text = guide.read_text(encoding="utf-8")
    scope: dict[str, object] = {"__name__": guide.stem}
    printed = ""
    for found in _BLOCK.finditer(text):
        language, block = found.groups()
        line = text[: found.start()].count("\n") + 1
        if language == "text":
            assert printed == block, f"{guide.name}:{line} prints something else"
            printed = ""
            continue
        assert not printed, f"{guide.name}:{line} comes after a block whose output is not shown"
        out = io.StringIO()
        source = "\n" * line + block
        with contextlib.redirect_stdout(out):
            exec(compile(source, str(guide), "exec"), scope)
        printed = out.getvalue()
    assert not printed, f"{guide.name}: the output of its last block is not shown"


def test_there_are_guides():
    expected = {"write_a_mode", "write_a_tensor_subclass", "write_an_operator"}
    assert expected <= {g.stem for g in GUIDES}
