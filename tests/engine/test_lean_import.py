"""A program imports a model without torch's compiler, and everything where that cannot be."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from rqchat.engine import lean_import

_REPORT = """
import sys
from rqchat.engine import lean_import
lean_import.import_transformers()
from transformers import masking_utils
from transformers.models.gemma4.modeling_gemma4 import Gemma4ForConditionalGeneration
print("torch._dynamo" in sys.modules, "torch.distributed.tensor" in sys.modules)
with masking_utils.TransformGetItemToIndex():
    pass
import torch
print(sys.modules["torch._dynamo"].__file__ is not None, torch.distributed.is_available())
"""


def test_a_model_is_imported_without_the_compiler_which_works_afterwards() -> None:
    end = subprocess.run([sys.executable, "-c", _REPORT], capture_output=True, text=True)
    assert end.stdout.splitlines() == ["False False", "True True"], end.stderr


@pytest.mark.parametrize("asked", ["disable", "what_is_new"])
def test_a_release_that_asks_for_more_gets_the_whole_compiler(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted_compiler.py").write_text("disable = what_is_new = 'whole'\n")
    (tmp_path / "planted_model.py").write_text(f"from planted_compiler import {asked} as asked\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lean_import, "_COMPILER", "planted_compiler")
    monkeypatch.setattr(lean_import, "_MODEL_CODE", ("planted_model",))
    frozen = gc.get_freeze_count()
    try:
        lean_import.import_transformers()
        assert (sys.modules["planted_model"].asked == "whole") == (asked == "what_is_new")
        assert ("planted_compiler" in sys.modules) == (asked == "what_is_new")
        assert gc.get_freeze_count() > frozen
        frozen = gc.get_freeze_count()
        lean_import.import_transformers()  # a second session does not freeze what the first has
        assert gc.get_freeze_count() <= frozen
    finally:
        for name in ("planted_model", "planted_compiler"):
            sys.modules.pop(name, None)
