"""The whole program with the pocket model on a real terminal: every command, key in, screen out.

A start takes seconds, so one chat serves all tests but the first, in any order: each begins with a
clean screen and no conversation.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import rqchat
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.sessions import list_sessions, read_turns
from tests.cli.screened import Chat, program

POCKET = Path(rqchat.__file__).parent / "pocket"
SHAPES = Path(rqchat.__file__).parents[1] / "docs/images/shapes.png"
HELLO, WHO = "Hello! How can I help you?", "I am the rqchat pocket model"
FACT = "The access code for the north gate is 4711."
ENDLESS = ("/set temperature 10", "/set top-p 1", "/set top-k 0", "/set seed 65")
# What a terminal is told by our own libraries; any other escape character came from elsewhere
OUR_SEQUENCES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
CONTROL = re.compile(r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@pytest.mark.slow
def test_from_the_first_start_to_the_next(tmp_path: Path) -> None:
    with closing(Chat(tmp_path, "--model=pocket")) as chat:
        typed_while_it_loads(chat)
        ctrl_c_twice_leaves(chat)
    config = tmp_path / "config/rqchat/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('keys = "vi"\nthink = true\n')
    document = tmp_path / "document.txt"
    document.write_text(f"It rains in the town.\n{FACT}\n" * 20)
    with closing(Chat(tmp_path, "-c", stdin=document, NO_COLOR="1")) as chat:
        it_goes_on_with_a_piped_document(chat)
        vi_keys_and_earlier_lines(chat)
        names_cannot_reach_the_terminal(chat)
        chat.press("\x04")
        assert chat.leave() == 0
        assert not CONTROL.search(OUR_SEQUENCES.sub("", chat.raw))


def typed_while_it_loads(chat: Chat) -> None:
    chat.wait_for(">")
    chat.press("who are you\r")
    chat.wait_for("waiting: who are you")
    chat.press("\x03")
    chat.wait_until_gone("waiting:")
    chat.press("?\r")
    chat.wait_for(WHO)
    assert "> who are you?" in chat.text


def ctrl_c_twice_leaves(chat: Chat) -> None:
    chat.wait_for("tokens/s")
    chat.clean()
    chat.press("\x03")
    chat.wait_for("Ctrl-C once more leaves")
    chat.press("\x03")
    assert chat.leave() == 0
    assert "goes on from here" in chat.text


def it_goes_on_with_a_piped_document(chat: Chat) -> None:
    chat.wait_for("read standard input: 1,320 characters")
    chat.wait_for("going on with who are you?")
    assert "[File 1" not in chat.text  # nothing waits for the model
    chat.press("What is the access code for the north gate?\r")
    chat.wait_for("[File 1: standard input, ")
    chat.wait_for("4711.")


def vi_keys_and_earlier_lines(chat: Chat) -> None:
    chat.wait_for("INSERT | pocket")
    chat.say("/clear", "cleared")
    chat.clean()
    chat.press("\x12who are")  # Ctrl-R, in what was typed before this start
    chat.wait_for("who are you")
    chat.press("\r\x1b")  # taken into the line; vi's commands
    chat.wait_for("NORMAL | ")
    chat.press("0rW")
    chat.wait_for("> Who are you")
    chat.press("\r")
    chat.wait_for(WHO)
    chat.settle()
    with Database.open(chat.home / "data/rqchat/conversations.db") as database:
        (turn,) = read_turns(database, list_sessions(database)[0].id)
    assert turn.receipt.thinking
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3|4|9|10)\d(?:;\d+)*m", chat.raw)


def names_cannot_reach_the_terminal(chat: Chat) -> None:
    folder = chat.home / "folder"
    folder.mkdir()
    (folder / "e\x1b]0;owned\x07.txt").write_text("A text.")
    chat.say("/clear", "cleared")
    chat.say("/set max-tokens 9", "= 9")
    chat.say(f"/file {folder}", "1 file read:", "]0;owned", "[File 1: ")
    chat.clean()
    chat.press(f"/file {folder}/e")
    chat.wait_for("e^[]0;owned")  # in the menu
    chat.press("\x03")
    chat.say("\x1b[200~evil \x1b]0;owned\x07 title\x1b[201~", "tokens/s")
    chat.say("/sessions", "]0;owned", "/load ID")
    chat.say("/context", "]0;owned", "free")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    home = tmp_path_factory.mktemp("home")
    bin_, copied = home / "bin", home / "copied"
    program(bin_, "wl-copy", f"cat > {copied}")
    program(
        bin_,
        "wl-paste",
        f'[ "$1" = --list-types ] && echo image/png || cat "{SHAPES}"',
    )
    program(bin_, "editor", """sed -i 's/who are you/Hello/' "$1" """)
    chat = Chat(
        home,
        "--model=pocket",
        PATH=f"{bin_}:/usr/bin:/bin",
        WAYLAND_DISPLAY="wayland-0",
        EDITOR=str(bin_ / "editor"),
    )
    try:
        yield chat
    finally:
        chat.close()


@pytest.fixture
def chat(running: Chat) -> Chat:
    running.wait_for(" tokens (")
    running.say("/clear", "cleared")
    return running


def test_turns(chat: Chat) -> None:
    chat.say("who are you", WHO)
    assert "the same answer again" in chat.say("/retry", WHO, "again;")
    chat.say("/edit", "> Hello")  # what the editor made of it
    chat.say("", HELLO)
    assert "took back the last turn" in chat.say("/undo", "took back")
    assert "took back the edit" in chat.say("/undo", "took back")
    assert "question" in chat.say("/context", "who are you", WHO[:20], " free")
    chat.say("/undo 9", "nothing to take back")
    assert "0 of 32,768 tokens (0 %)" in chat.shown


def test_the_status_line_counts_the_conversation(chat: Chat) -> None:
    """As `/context` does, whatever was said and taken back in between."""

    def counted() -> str:
        said = re.search(r"^([\d,]+) of .* free$", chat.say("/context", " free"), re.MULTILINE)
        assert said
        chat.wait_for(f"KV | {said[1]} of ")  # the line is drawn when the program comes to it
        return said[1]

    chat.say("hello", HELLO)
    one = counted()
    chat.say("who are you", WHO)
    two = counted()
    for line, said, count in (
        ("/retry", "again;", two),
        ("/undo", "took back the retry", two),
        ("/undo", "took back the last turn", one),
        ("/fork counted", "from here on", one),
        ("/think on", "thinking is on", None),
        ("/think off", "thinking is off", one),
        ("/compact drop", "nothing to compact", one),
    ):
        chat.say(line, said)
        assert counted() == (count or counted())
    chat.say("/clear", "cleared")
    chat.wait_for("KV | 0 of ")
    chat.say("/load counted", "going on with counted")
    assert counted() == one != two


def test_copy_and_statistics(chat: Chat) -> None:
    chat.say("hello", HELLO)
    chat.say("/copy", f"copied {len(HELLO)} characters with wl-copy")
    assert (chat.home / "copied").read_text() == HELLO
    chat.say("/copy code", "no block of code")
    chat.say("/stats", "stopped by eos", "planned")
    chat.say("/help", "/image PATH", "Ctrl-Z")
    chat.say("/plan", "fp32 weights with a 4-bit KV cache hold 32,768 tokens")


def test_settings_and_system(chat: Chat) -> None:
    chat.say("/system Be brief.", "system prompt set")
    chat.say("/system", "Be brief.")
    chat.say("hello", "help you")
    assert "system" in chat.say("/context", "Be brief.", "free")
    chat.say("/system off", "removed")
    chat.say("/set max-tokens 3", "max-tokens = 3")
    chat.say("who are you", "[stopped at the token limit: the answer is not complete]")
    chat.say("/set max-tokens off", "max-tokens = not set")
    assert chat.say("/continue", "Gemma 4 31B.").count("rqchat pocket model") == 1
    chat.say("/think on", "thinking is on")
    chat.say("hello", "help you")
    chat.say("/think off", "thinking is off")


def test_several_lines_are_one_question(chat: Chat) -> None:
    for typed in (f"{FACT}\nWhat is the access\x1b\rcode", f'"""{FACT}\r\rWhat is it?"""'):
        chat.say("/clear", "cleared")
        chat.say(typed, "tokens/s")
        assert len(re.findall("^question", chat.say("/context", "free"), re.MULTILINE)) == 1


def test_a_big_paste_reaches_the_model(chat: Chat) -> None:
    lines = [f"Line {number} of a quiet text about the river." for number in range(40)]
    chat.clean()
    chat.press("\x1b[200~" + "\r\n".join([*lines, FACT, *lines]) + "\x1b[201~")
    chat.wait_for("> [Pasted 81 lines #")
    assert "quiet text" not in chat.text
    chat.press(" What is the access code for the north gate?\r")
    chat.wait_for(FACT)
    chat.say("/context", "question", "free")
    assert re.search(r"question +1,\d\d\d ", chat.text)


def test_pictures_as_they_are_dropped_and_pasted(chat: Chat) -> None:
    dropped = chat.home / "my red shapes.png"
    shutil.copy(SHAPES, dropped)
    for number, typed in enumerate((str(dropped).replace(" ", r"\ "), f"'{dropped}'"), 1):
        chat.say(typed, f"[Image {number}: ")
    chat.say("/paste", "[Image 3: ")
    chat.say("/clear", "cleared")
    chat.say(f"/image {dropped}", "[Image 1: ")
    chat.say("What is in this picture?", "star")
    chat.clean()
    chat.press(f"/image {chat.home}/my r")
    chat.wait_for("    my red shapes.png")  # in the menu
    chat.press("\t")
    chat.wait_for(f"> /image {dropped}")
    chat.press("\r")
    chat.wait_for("[Image 2: ")


def test_compacting(chat: Chat) -> None:
    for _ in range(3):
        chat.say("hello", HELLO)
    chat.say("/compact", "the pocket model cannot summarise. /compact drop leaves out the oldest 2")
    chat.say("/compact drop", "dropped 2 turns")
    assert chat.say("/context", "free").count("question") == 1
    chat.say("/undo", "took back the dropping")
    assert chat.say("/context", "free").count("question") == 3


def test_saved_conversations(chat: Chat) -> None:
    chat.say("hello", HELLO)
    chat.say("/save first one", "rqchat --resume 'first one' goes on from here")
    chat.say("/fork other", "from here on this is other")
    chat.say("who are you", WHO)
    exported = chat.home / "talk.json"
    chat.say(f"/export {exported}", "written to")
    assert [turn["question"] for turn in json.loads(exported.read_text())["turns"]] == [
        "hello",
        "who are you",
    ]
    assert "other" in chat.say("/sessions", "first one", "/load ID")
    chat.say("/new", "cleared")
    chat.say("/load first one", "going on with first one", HELLO)
    assert chat.say("/context", "free").count("question") == 1
    chat.say("/load nobody", "no conversation 'nobody'")


def test_another_model_and_one_that_is_not_there(chat: Chat) -> None:
    copy = chat.home / "a copy"
    shutil.copytree(POCKET, copy, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    chat.say("hello", HELLO)
    chat.say(f"/model {copy}", "a copy | fp32 |")
    chat.say("who are you", WHO)
    assert chat.say("/context", "free").count("question") == 2
    chat.say(f"/model {chat.home}/nothing", "going back to the model before", "a copy | fp32 |")
    chat.say("/undo", "took back the last turn")
    a_summary_by_a_model_that_cannot(chat)
    chat.say("/model pocket", "pocket | fp32 |")
    chat.say("/continue", "nothing to add")


def a_summary_by_a_model_that_cannot(chat: Chat) -> None:
    """What it writes is seen to be the summary, and all is as it was when that is taken back."""
    book = chat.home / "town.txt"
    book.write_text("The river walks under a quiet town. " * 60 + FACT)
    chat.say(f"/file {book}", "[File 1: ")
    chat.say("What is the access code for the north gate?", FACT)
    chat.say("who are you", "tokens/s")
    parts = re.compile(r"^(?:document|question|answer|frame) .*$", re.MULTILINE)
    chat.settle()
    before = parts.findall(chat.say("/context", " free"))
    said = chat.say("/compact", "a summary of 2 turns with 1 file or picture:", " has them whole")
    assert re.search(r"this stands for 2 turns .*: ([\d,]+) tokens are (\d+) now", said)
    assert "town.txt" not in chat.say("/context", " free")
    chat.say("/undo", "took back the compacting")
    assert parts.findall(chat.say("/context", " free")) == before


def test_ctrl_c_while_it_reads(chat: Chat) -> None:
    book = chat.home / "book.txt"
    book.write_text("The river walks under a quiet town of stone and wind. " * 1500)
    chat.say(f"/file {book}", "[File 1: book.txt, ")
    chat.say("How long is the river?", "reading ")
    chat.press("\x03")
    chat.wait_until_gone("reading ")
    chat.wait_for("> How long is the river?", times=2)  # nothing came: it is at the prompt again
    chat.press("\x03")
    chat.say("/continue", "there is no answer yet")


def test_resize_and_ctrl_c_while_it_answers(chat: Chat) -> None:
    """At a high temperature the model draws from all that it can say, and never ends."""
    for line in ENDLESS:
        chat.say(line, " = ")
    chat.clean()
    chat.press("hello\r")
    chat.wait_for("tokens/s")
    typed = "日本語 and a 👩 and a line that goes on beyond the width of a narrow screen"
    chat.press(typed)
    for columns in (40, 400):
        chat.resize(columns, 40)
        (chat.wait_until_gone if columns == 40 else chat.wait_for)(" MiB RAM")
    chat.resize(100, 40)
    chat.wait_for(re.compile(r"KV \| [2-9]\d\d of 32,768 tokens"))
    chat.press("\x03")
    chat.wait_for("[interrupted: the answer is not complete]")
    chat.settle()
    assert chat.shown.splitlines()[-2] == f"> {typed}"
    chat.press("\x15")
    chat.say(f"/export {chat.home}/noise.json", "written to")
    assert re.search(r"\\u00[01]", (chat.home / "noise.json").read_text())
    assert not CONTROL.search(OUR_SEQUENCES.sub("", chat.raw))
    chat.say("/set temperature off", "not set")


def test_resize_while_a_long_line_is_typed(chat: Chat) -> None:
    typed = " ".join(f"word{number}" for number in range(20))
    chat.clean()
    chat.press(typed)
    chat.wait_for("word19")
    for columns in (40, 60, 100):
        chat.resize(columns, 40)
        chat.settle()
        *rows, status = chat.shown.splitlines()
        assert rows[0].startswith("> word0 ")
        assert re.sub(r"\s", "", "".join(rows)) == ">" + typed.replace(" ", "")
        assert status.startswith("pocket | ")
    chat.press("\x03")
