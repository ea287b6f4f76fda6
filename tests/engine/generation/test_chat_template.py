"""Templates are rendered as transformers renders them, in a process that does not outlive them."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from rqchat.engine.generation.chat_template import ChatTemplate
from rqchat.errors import ModelError
from tests.helpers import TEMPLATE, byte_tokenizer

POCKET = Path(__file__).parents[3] / "rqchat" / "pocket" / "chat_template.jinja"
# What published templates use of what transformers adds to Jinja
RICH = """
{%- set found = namespace(first=true, names=[]) %}
{{ bos_token }}{% for message in messages %}
  {% if loop.index > 2 %}{% break %}{% endif %}
  {% generation %}{{ message.content | trim }}{% endgeneration %}
  {{ message | tojson(indent=1) }}{{ dict(a='<&>', b=[1, none]) | tojson }}
  {% set found.first = false %}
{% endfor %}
{{ found.first }}{{ tools is none }}{{ add_generation_prompt }}{{ enable_thinking }}
{{ strftime_now('%Y') }}{{ dict.fromkeys([1]) }}
"""
RECORDS: list[dict[str, Any]] = [
    {"role": "user", "content": " Hä? \ue0000\ue001"},
    {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
    {"role": "user", "content": "c"},
]


@pytest.mark.parametrize("template", [RICH, TEMPLATE, POCKET.read_text(encoding="utf-8")])
def test_it_is_what_transformers_makes_of_it(template: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    records = RECORDS if template != RICH else [RECORDS[0], RECORDS[2], RECORDS[2]]
    ours = ChatTemplate(tokenizer)

    every: tuple[dict[str, Any], ...] = (
        {"add_generation_prompt": True, "enable_thinking": True},
        {"enable_thinking": False},
    )
    for switches in every:
        theirs = tokenizer.apply_chat_template(records, tokenize=False, **switches)
        assert ours.render(records, **switches) == theirs


def test_only_a_strangers_template_gets_a_process_which_ends_with_it() -> None:
    tokenizer = byte_tokenizer()
    stranger = ChatTemplate(tokenizer)
    stranger.render(RECORDS)
    process = stranger._process
    assert process is not None and process.poll() is None
    del stranger
    gc.collect()
    assert process.poll() is not None

    tokenizer.chat_template = POCKET.read_text(encoding="utf-8")
    own = ChatTemplate(tokenizer)
    own.render(RECORDS)
    assert own._process is None


@pytest.mark.parametrize("name", ["_x", "__init__"])
def test_a_namespace_takes_no_names_that_reach_into_python(name: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = f"{{% set a = namespace({name}=1) %}}"

    with pytest.raises(ModelError, match="a namespace cannot hold"):
        ChatTemplate(tokenizer).render(RECORDS)


def test_a_process_that_was_killed_is_said_and_started_anew() -> None:
    template = ChatTemplate(byte_tokenizer())
    whole = template.render(RECORDS)
    assert template._process is not None
    template._process.kill()

    with pytest.raises(ModelError, match="ended with signal 9"):
        template.render(RECORDS)

    assert template.render(RECORDS) == whole
