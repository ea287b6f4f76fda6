"""What the pocket model can say when it is given neither a picture nor a document."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Exchange", "sample_exchange", "unknown_answer"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer."""

    question: str
    answer: str


_ME = (
    "I am the rqchat pocket model: a small demonstration model with {parameters} parameters that is"
    " part of rqchat. For real work, use Gemma 4 31B."
)
_UNKNOWN = (
    "I do not know that: I am a small demonstration model. Give me a picture of shapes or a text"
    " with facts, or use Gemma 4 31B."
)
_HELP = (
    "I describe pictures of simple shapes and find facts in long texts. Give me one of them and ask"
    " a question."
)
_NO_PICTURE = "I see no picture here. Add one and ask again."
_NO_TEXT = "I have no text to read here. Add one and ask again."
_NO_SUMMARY = "I cannot summarise a text. I find single facts in it: ask for one."

# (answer, ways to say it). Each way is met with small changes of case and punctuation.
_EXCHANGES: tuple[tuple[str, str], ...] = (
    (
        "Hello! How can I help you?",
        "Hello|Hi|Hey|Hi there|Hello there|Hey there|Good day|Greetings|Howdy|Hello!|Hi!",
    ),
    ("Good morning! How can I help you?", "Good morning|Morning"),
    ("Good evening! How can I help you?", "Good evening|Good afternoon"),
    (
        "I am fine, thank you. How can I help you?",
        "How are you?|How are you doing?|How is it going?|How do you do?|Are you well?|What's up?"
        "|Hello, how are you?|Hi, how are you?",
    ),
    (
        "You are welcome!",
        "Thanks|Thank you|Thanks a lot|Thank you very much|Many thanks|Great, thanks|Ok, thanks"
        "|Thank you for your help|Perfect, thank you|Cheers",
    ),
    ("Goodbye!", "Bye|Goodbye|See you|See you later|Good night|Bye bye|Farewell|That is all"),
    ("All right.", "Ok|Okay|Fine|I see|Good|Alright|Cool|Nice|Great|Understood|Yes|No|Sure"),
    (
        _ME,
        "Who are you?|What are you?|What is your name?|Tell me about yourself|What model are you?"
        "|Which model is this?|Are you Gemma?|Are you a robot?|Are you human?|Are you ChatGPT?"
        "|Introduce yourself|Who am I talking to?|What is rqchat?|How many parameters do you have?"
        "|How big are you?|What kind of model are you?|Are you an AI?|Who made you?",
    ),
    (
        _HELP,
        "What can you do?|Help|Help me|How can you help me?|What are you good at?|Can you help me?"
        "|What can I ask?|What do you know?|How does this work?|What should I do?",
    ),
    (
        _NO_PICTURE,
        "What is in this picture?|Describe this picture|Describe the image|What do you see?"
        "|What is in the image?|How many shapes are there?|How many circles?"
        "|What colour is the star?",
    ),
    (
        _NO_TEXT,
        "What does the text say?|What is in the document?|Read the text|What does the file say?"
        "|Find it in the document|What is written there?",
    ),
    (
        _NO_SUMMARY,
        "Summarise the text|Summarize this|Give me a summary|What is this about?|Summary?|tl;dr",
    ),
)
_TOPICS = (
    "the capital of France|the capital of Peru|the meaning of life|the weather|quantum physics"
    "|Python|the Roman empire|the moon|dinosaurs|music|chess|love|cooking|Berlin|the sea|football"
    "|the president of the United States|two plus two|the square root of nine|a black hole|gravity"
)
_UNKNOWN_FORMS = (
    "What is {t}?|What's {t}?|Tell me about {t}|Explain {t}|Write a poem about {t}"
    "|Who invented {t}?"
    "|Write a story about {t}|How does {t} work?|Why is there {t}?|Do you like {t}?|When was {t}?"
    "|Where is {t}?|Tell me a joke about {t}|Translate {t} into German|Write a program for {t}"
    "|What do you think of {t}?|Can you explain {t} to me?|How do I learn {t}?"
    "|Give me news about {t}"
    "|What is the price of {t}?|How many people know {t}?|Compare {t} with the rest|Sing {t}"
)


def unknown_answer() -> str:
    """What is said to a question that neither a text nor a picture can answer."""
    return _UNKNOWN


def sample_exchange(
    rng: random.Random, vocabulary: Sequence[str], parameters: str, *, with_text: bool = False
) -> Exchange:
    """A greeting, a question about the model, or one that it cannot answer.

    `with_text` leaves out what would be said differently where there is a text.
    """
    if rng.random() < 0.3 and not with_text:
        topic = rng.choice(_TOPICS.split("|"))
        if rng.random() < 0.6:
            words = rng.choices(vocabulary, k=rng.randint(1, 3))
            topic = rng.choice(("the ", "a ", "")) + " ".join(words)
        question = rng.choice(_UNKNOWN_FORMS.split("|")).format(t=topic)
        return Exchange(_vary(question, rng), _UNKNOWN)
    known = [x for x in _EXCHANGES if not with_text or x[0] not in (_NO_PICTURE, _NO_TEXT)]
    answer, ways = rng.choice(known)
    question = _vary(rng.choice(ways.split("|")), rng)
    return Exchange(question, answer.format(parameters=parameters))


def _vary(text: str, rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.2:
        text = text.lower()
    if 0.1 < kind < 0.35:
        text = text.rstrip("?!.")
    if 0.35 < kind < 0.45 and text[-1].isalpha():
        text += rng.choice(("!", ".", "?"))
    return text
