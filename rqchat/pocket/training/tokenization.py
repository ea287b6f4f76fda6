"""The pocket model's tokenizer: byte-level BPE with single digits and Gemma's special tokens."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rqchat.pocket.training.architecture import CONTEXT_TOKENS, SPECIAL_TOKENS, VOCABULARY_SIZE
from rqchat.pocket.training.language.dialogues import (
    Prose,
    document_conversation,
    small_talk_conversation,
)
from rqchat.pocket.training.vision.picture_questions import questions
from rqchat.pocket.training.vision.scene_sampling import sample_scene

__all__ = ["train_tokenizer"]


def train_tokenizer(prose: Prose, folder: Path, seed: int) -> PreTrainedTokenizerFast:
    """Learn the merges from prose and from the world's own sentences; save into `folder`."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    # Single digits, so that a number is copied digit by digit and no number is ever unseen.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        # Every byte, so that any text can be encoded, whatever the training text lacks.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(prose, random.Random(seed)), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "image_token": "<|image|>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
        },
    )
    fast.chat_template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    fast.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_IMAGE_PROCESSOR, indent=2) + "\n")
    return fast


_IMAGE_PROCESSOR = {
    "image_processor_type": "Gemma4ImageProcessor",
    "do_convert_rgb": True,
    "do_normalize": False,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.0, 0.0, 0.0],
    "image_std": [1.0, 1.0, 1.0],
    "max_soft_tokens": 70,
    "patch_size": 16,
    "pooling_kernel_size": 3,
    "resample": 3,
    "rescale_factor": 1 / 255,
}


def _texts(prose: Prose, rng: random.Random) -> Iterator[str]:
    for text in rng.sample(prose.texts, min(3000, len(prose.texts))):
        yield text[:3000]
    for _ in range(1500):
        document, turns = document_conversation(rng, prose, 200, 4, 4)
        yield document
        yield " ".join(turn.question + " " + turn.answer for turn in turns)
        for turn in small_talk_conversation(rng, prose, "2 million", 2):
            yield turn.question + " " + turn.answer
        for question, answer in questions(sample_scene(rng), rng):
            yield question + " " + answer
