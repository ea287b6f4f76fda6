"""A program imports a model without torch's compiler, and everything where that cannot be."""

from __future__ import annotations

import subprocess
import sys

import pytest

_REPORT = """
import sys
from rqchat.engine import lean_import
{before}
lean_import.import_transformers()
from transformers import masking_utils
from transformers.models.gemma4.modeling_gemma4 import Gemma4ForConditionalGeneration
print("torch._dynamo" in sys.modules, "torch.distributed.tensor" in sys.modules)
with masking_utils.TransformGetItemToIndex():
    pass
import torch
print(sys.modules["torch._dynamo"].__file__ is not None, torch.distributed.is_available())
"""


@pytest.mark.parametrize(
    ("before", "loaded"),
    [
        pytest.param("", "False False", id="lean"),
        # As a release of transformers would be that asks the compiler for something new
        pytest.param("lean_import._DECORATORS = ()", "True True", id="whole"),
    ],
)
def test_a_model_is_imported_without_the_compiler_which_works_afterwards(
    before: str, loaded: str
) -> None:
    code = _REPORT.format(before=before)
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert end.stdout.splitlines() == [loaded, "True True"], end.stderr
