"""What `ask` reads: paths as typed and dropped, URLs, folders, PDF, HTML, the clipboard."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rqchat.engine.conversation import UserTurn
from rqchat.engine.inputs import folders
from tests.cli.conftest import Run
from tests.cli.fake_session import FakeSession
from tests.helpers import WebPages, pdf_bytes
from tests.pdf_files import scan_pdf_bytes


def _turn(session: FakeSession) -> UserTurn:
    return session.asked[-1][0]


def _texts(session: FakeSession) -> list[str]:
    return [document.text for document in _turn(session).documents]


def _sizes(session: FakeSession) -> list[tuple[int, int]]:
    return [(picture.width, picture.height) for picture in _turn(session).pictures]


@pytest.mark.parametrize("written", ["{0}", "'{0}'", '"{0}"', "{1}", "file://{2}", " {0} "])
def test_a_picture_as_terminals_write_a_dropped_one(
    run: Run, session: FakeSession, picture_file: Path, written: str
) -> None:
    path = str(picture_file)
    name = written.format(path, path.replace(" ", "\\ "), path.replace(" ", "%20"))
    assert run("ask", "-i", name, "What?").code == 0
    assert _sizes(session) == [(64, 48)]


def test_home_is_a_tilde(
    run: Run, session: FakeSession, picture_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(picture_file.parent))
    run("ask", "-i", "~/my cat.png", "-i", "'~/my cat.png'", "What?")
    assert _sizes(session) == [(64, 48), (64, 48)]


def test_every_picture_is_answered_with_its_cost(
    run: Run, session: FakeSession, picture_file: Path
) -> None:
    result = run("ask", "-i", str(picture_file), "-i", str(picture_file), "What?")
    chips = [line for line in result.err.splitlines() if line.startswith("[Image")]
    # 64 x 48 at 280 tokens becomes 19 x 14 blocks (image_processing_gemma4.py)
    assert chips == ["[Image 1: 64x48, 266 tokens]", "[Image 2: 64x48, 266 tokens]"]


def test_a_picture_in_the_question_goes_along_once(
    run: Run, session: FakeSession, picture_file: Path
) -> None:
    question = f"What is in {picture_file}?"
    for given in ([], ["-i", str(picture_file)]):
        assert run("ask", *given, question).code == 0
        assert (_turn(session).text, _sizes(session)) == (question, [(64, 48)])
    result = run("ask", "What is in ~/none/cat.png?")
    assert (result.code, len(session.asked)) == (1, 2)
    assert "there is no picture ~/none/cat.png" in result.err


def test_the_question_itself_may_be_piped(run: Run, session: FakeSession) -> None:
    assert run("ask", "-", stdin=b"Who is\nthe narrator?\n").code == 0
    assert (_turn(session).text, _texts(session)) == ("Who is\nthe narrator?", [])
    assert run("ask", "-", "-f", "-", stdin=b"Who?").code == 2


def test_a_picture_and_a_page_from_the_web(
    run: Run, session: FakeSession, web: WebPages, picture_file: Path
) -> None:
    web.pages["/cat"] = (302, {"Location": "/cat.png"}, b"")
    web.pages["/cat.png"] = (200, {}, picture_file.read_bytes())
    web.pages["/page"] = (
        200,
        {"Content-Type": "text/html; charset=iso-8859-1"},
        b"<p>Caf\xe9</p>",
    )
    web.pages["/notes.txt"] = (200, {"Content-Type": "text/plain"}, b"<p>as it is</p>")
    names = ["-f", f"{web.root}/page", "-f", f"{web.root}/notes.txt"]
    assert run("ask", "-i", f"{web.root}/cat", *names, "What?").code == 0
    assert _sizes(session) == [(64, 48)]
    assert _texts(session) == ["Café\n", "<p>as it is</p>"]


def test_offline_refuses_urls(run: Run, session: FakeSession) -> None:
    for option in ("-i", "-f"):
        result = run("ask", "--offline", option, "http://localhost/x", "What?")
        assert (result.code, result.out) == (2, "")
        assert "which --offline forbids" in result.err


def test_what_the_web_cannot_give_is_a_line(run: Run, session: FakeSession, web: WebPages) -> None:
    web.pages["/x"] = (200, {"Content-Type": "text/html"}, b"<p>no picture</p>")
    for name, said in (("/none.png", "the server answers 404"), ("/x", "is no picture")):
        result = run("ask", "-i", web.root + name, "What?")
        assert result.code == 1
        assert said in result.err
        assert session.settings is None


def test_pdf_by_its_content_from_file_and_pipe(
    run: Run, session: FakeSession, tmp_path: Path
) -> None:
    (tmp_path / "whale").write_bytes(pdf_bytes("Call me Ishmael.", ""))
    result = run("ask", "-f", str(tmp_path / "whale"), "Who?")
    assert _texts(session) == ["[page 1]\nCall me Ishmael.\n\n[page 2, shown as a picture below]"]
    assert "1 of 2 pages read as pictures (2)" in result.err
    run("ask", "Who?", stdin=pdf_bytes("Piped."))
    assert _texts(session) == ["Piped."]


def test_a_scan_however_it_is_given(
    run: Run, session: FakeSession, tmp_path: Path, web: WebPages
) -> None:
    data = scan_pdf_bytes("red", "lime", "blue")
    web.pages["/scan"] = (200, {"Content-Type": "application/pdf"}, data)
    (tmp_path / "scan.pdf").write_bytes(data)
    for name in (str(tmp_path / "scan.pdf"), f"'{tmp_path}/scan.pdf'", f"{web.root}/scan", "-"):
        piped = data if name == "-" else b""
        assert run("ask", "-f", name, "--pages", "2-3", "What?", stdin=piped).code == 0
        names = [picture.name.split(" of ")[0] for picture in _turn(session).pictures]
        assert (names[-2:], _texts(session)) == (["page 2", "page 3"], [])
    result = run("ask", "--pages", "4", "What?", stdin=data)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "standard input has 3 pages, and --pages 4 asks for others" in result.err
    assert run("ask", "--pages", "4", "What?", stdin=b"text").code == 2
    assert run("ask", "--questions", "-", stdin=data).code == 2


def test_html_by_name_or_look_and_text_that_speaks_of_them(
    run: Run, session: FakeSession, tmp_path: Path
) -> None:
    (tmp_path / "part.htm").write_text("<b>bold</b>")
    (tmp_path / "page").write_text("<!doctype html><title>T</title>")
    (tmp_path / "notes.md").write_text("A PDF begins with %PDF- and a page with <html>")
    run("ask", *(part for name in ("part.htm", "page", "notes.md") for part in
                 ("-f", str(tmp_path / name))), "Who?")  # fmt: skip
    assert _texts(session) == ["bold\n", "T\n", "A PDF begins with %PDF- and a page with <html>"]


def test_a_folder_and_a_pattern(run: Run, session: FakeSession, tmp_path: Path) -> None:
    for name in ("code/b.py", "code/sub/a.py", "code/logo.bin", "code/read.me"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0" if name.endswith("bin") else name.encode())
    result = run("ask", "-f", str(tmp_path / "code"), "What?")
    assert _texts(session) == ["code/b.py", "code/read.me", "code/sub/a.py"]
    assert f"{tmp_path}/code: 3 files read: {tmp_path}/code/b.py, " in result.err
    assert (
        f"1 file left out, neither text in UTF-8 nor a picture: {tmp_path}/code/logo.bin"
        in result.err
    )
    run("ask", "-f", str(tmp_path / "code/**/*.py"), "What?")
    assert _texts(session) == ["code/b.py", "code/sub/a.py"]


def test_a_picture_is_a_file_like_others(
    run: Run, session: FakeSession, web: WebPages, picture_file: Path
) -> None:
    data = picture_file.read_bytes()
    bare = picture_file.with_name("bare")
    bare.write_bytes(data)
    web.pages["/cat"] = (200, {"Content-Type": "image/png"}, data)
    names = [str(picture_file), str(bare), f"{web.root}/cat", f"{picture_file.parent}/*.png"]
    for name in names:
        assert run("ask", "-f", name, "What?").code == 0
        assert (_sizes(session), _texts(session)) == ([(64, 48)], [])
    for given in (["-f", "-"], ["-i", "-"], []):
        assert run("ask", *given, "What?", stdin=data).code == 0
        assert (_sizes(session), _texts(session)) == ([(64, 48)], [])
    count = len(session.asked)
    for arguments in (["ask"], ["ask", "-"], ["ask", "--questions", "-"]):
        result = run(*arguments, stdin=data)
        assert (result.code, len(session.asked)) == (2, count)
        assert "standard input is a picture, not a question about it" in result.err


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("cat.png", b"\x89PNG\r\n\x1a\n cut", "no picture that can be read"),
        ("cat.png", b"<!doctype html>", "a web page, not the picture itself"),
        ("cat.gif", b"", "is empty"),
        ("cat", b"\0\0\0 ftypheic\0\0", "a HEIC picture, as phones make them"),
    ],
)
def test_a_bad_picture_is_refused_alike(
    run: Run, session: FakeSession, tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    said_of_it = [run("ask", option, str(tmp_path / name), "What?") for option in ("-i", "-f")]
    assert said in said_of_it[0].err
    assert said_of_it[0] == said_of_it[1]
    assert said_of_it[0].code == 1


def test_a_folder_of_texts_pdf_files_and_pictures(
    run: Run,
    session: FakeSession,
    picture_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "a.md").write_text("alpha")
    (mixed / "b.pdf").write_bytes(pdf_bytes("Call me Ishmael."))
    (mixed / "c.png").write_bytes(picture_file.read_bytes())
    (mixed / "d.png").write_bytes(picture_file.read_bytes()[:40])
    result = run("ask", "-f", str(mixed), "What?")
    assert (_sizes(session), _texts(session)) == ([(64, 48)], ["alpha", "Call me Ishmael."])
    assert f"3 files read: {mixed}/a.md, {mixed}/b.pdf, {mixed}/c.png" in result.err
    assert f"1 file left out, neither text in UTF-8 nor a picture: {mixed}/d.png" in result.err
    monkeypatch.setattr(folders, "MAX_FOLDER_PIXELS", 64 * 48 - 1)
    result = run("ask", "-f", str(mixed), "What?")
    assert (result.code, len(session.asked)) == (1, 1)
    assert "100 pictures or 0 megapixels; name a part of it" in result.err


def test_an_encoding_that_is_said(run: Run, session: FakeSession, tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_bytes(b"caf\xe9")
    result = run("ask", "-f", str(tmp_path / "old.txt"), "Who?")
    assert result.code == 1
    assert "not valid UTF-8 at byte 3; name its own with --encoding" in result.err
    run("ask", "--encoding", "latin1", "-f", str(tmp_path / "old.txt"), "Who?")
    assert _texts(session) == ["café"]
    assert run("ask", "--encoding", "latin-x", "-f", str(tmp_path / "old.txt"), "Who?").code == 2


def test_the_clipboard(
    run: Run,
    session: FakeSession,
    picture_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/wl-paste"
    kind, data = "image/png", picture_file
    program.write_text(
        f"#!{sys.executable} -S\nimport sys\n"
        f"if '--list-types' in sys.argv: print({kind!r})\n"
        f"else: sys.stdout.buffer.write(open({str(data)!r}, 'rb').read())\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    run("ask", "--clipboard", "What?")
    assert _sizes(session) == [(64, 48)]
    program.unlink()
    result = run("ask", "--clipboard", "What?")
    assert result.code == 1
    assert "install wl-clipboard (Wayland) or xclip (X11)" in result.err


@pytest.mark.parametrize("option", ["-f", "-i"])
def test_an_empty_name_is_not_the_folder_one_is_in(
    run: Run, session: FakeSession, option: str
) -> None:
    for name in ("", "file://"):
        result = run("ask", option, name, "What?")
        assert (result.code, result.out) == (2, "")
        assert "names no file; is a variable not set?" in result.err


@pytest.mark.parametrize("option", ["-f", "-i"])
@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "[", "*.nothing", "'open"])
def test_names_that_cannot_be_are_a_line(
    run: Run, session: FakeSession, option: str, name: str
) -> None:
    result = run("ask", option, name, "What?")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
