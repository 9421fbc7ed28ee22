"""The token: its form, where it comes from, and who may read it."""

from __future__ import annotations

import copy
import os
import pickle
import stat
import sys
import threading
from pathlib import Path

import pytest

from distmap.errors import TokenError
from distmap.transport import token as module
from distmap.transport.token import Secret, load_token, token_path


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No token from anywhere, and a home of the test's own."""
    for name in ("DISTMAP_TOKEN_FILE", "DISTMAP_TOKEN", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(module, "_from_environment", None)
    return tmp_path


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


# --- the secret ------------------------------------------------------------------------------------------------------


def test_text_form_and_back() -> None:
    """dm1_<id>_<43 characters>; the id is part of it and of the repr."""
    secret = Secret.generate()
    text = secret.reveal()
    assert text.startswith(f"dm1_{secret.kid}_")
    assert len(text) == 4 + 8 + 1 + 43
    assert Secret.parse(f"  {text}\n") == secret
    assert len(secret.material()) == 32


def test_two_tokens_differ() -> None:
    """Every generated token is another; equal ones are equal and hash alike."""
    one, two = Secret.generate(), Secret.generate()
    assert one != two
    assert one != one.reveal()
    assert {one, Secret(one.material())} == {one}


def test_it_does_not_show_itself() -> None:
    """Neither repr, str, format nor its attributes hold the secret."""
    secret = Secret.generate()
    hidden = secret.reveal().rsplit("_", 1)[1][:10]
    for text in (repr(secret), str(secret), f"{secret}", f"{[secret]}"):
        assert hidden not in text
        assert f"<token {secret.kid}>" in text
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_does_not_pickle(protocol: int) -> None:
    """It must not leave the process inside a closure."""
    with pytest.raises(TypeError, match="does not pickle"):
        pickle.dumps(Secret.generate(), protocol)


def test_it_does_not_copy() -> None:
    """Copying goes the way of pickling."""
    with pytest.raises(TypeError):
        copy.deepcopy(Secret.generate())


@pytest.mark.parametrize("text", ["", "secret", "hunter2" * 6, "dm1_", "dm1_00000000_" + "a" * 42, "dm2_" + "a" * 52])
def test_passwords_are_not_accepted(text: str) -> None:
    """Only the one form is a token; the error does not repeat what was given."""
    with pytest.raises(TokenError, match="is not of the form") as caught:
        Secret.parse(text, source="the thing")
    assert str(caught.value).startswith("the thing ")
    assert len(text) < 5 or text not in str(caught.value)


def test_a_damaged_token_is_noticed() -> None:
    """One wrong character: said at once, and not at the handshake."""
    text = Secret.generate().reveal()
    damaged = text[:20] + ("A" if text[20] != "A" else "B") + text[21:]
    with pytest.raises(TokenError, match="damaged"):
        Secret.parse(damaged)


def test_short_material_is_refused() -> None:
    """32 bytes, not fewer."""
    with pytest.raises(TokenError, match="32"):
        Secret(b"short")


# --- where it comes from ---------------------------------------------------------------------------------------------


def test_a_token_given_counts() -> None:
    """As an object or as text, before anything else."""
    secret = Secret.generate()
    os.environ["DISTMAP_TOKEN_FILE"] = "/nowhere"
    try:
        assert load_token(secret) is secret
        assert load_token(secret.reveal()) == secret
    finally:
        del os.environ["DISTMAP_TOKEN_FILE"]


def test_order_of_sources(nothing_configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File given, then DISTMAP_TOKEN_FILE, then DISTMAP_TOKEN, then the user's file."""
    given, by_name, by_value = Secret.generate(), Secret.generate(), Secret.generate()
    own = load_token()
    path = write(nothing_configured / "given", given.reveal())
    monkeypatch.setenv("DISTMAP_TOKEN_FILE", str(write(nothing_configured / "named", by_name.reveal())))
    monkeypatch.setenv("DISTMAP_TOKEN", by_value.reveal())
    assert load_token(token_file=path) == given
    assert load_token() == by_name
    monkeypatch.delenv("DISTMAP_TOKEN_FILE")
    assert load_token() == by_value
    monkeypatch.setattr(module, "_from_environment", None)
    assert load_token() == own


def test_the_variable_is_taken_out_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Task processes do not inherit it; later pools of this process still have it; a new value replaces it."""
    secret, other = Secret.generate(), Secret.generate()
    monkeypatch.setenv("DISTMAP_TOKEN", secret.reveal())
    assert load_token() == secret
    assert "DISTMAP_TOKEN" not in os.environ
    assert load_token() == secret
    os.environ["DISTMAP_TOKEN"] = other.reveal()
    assert load_token() == other
    assert load_token() == other


def test_a_configured_source_that_fails_is_an_error(nothing_configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a reason to try the next."""
    monkeypatch.setenv("DISTMAP_TOKEN_FILE", str(nothing_configured / "missing"))
    with pytest.raises(
        TokenError, match=r"missing cannot be read: No such file.*copy the other.*unset DISTMAP_TOKEN_F"
    ):
        load_token()
    with pytest.raises(TokenError, match=r"gone cannot be read: No such file.*or name another file"):
        load_token(token_file=nothing_configured / "gone")
    monkeypatch.delenv("DISTMAP_TOKEN_FILE")
    monkeypatch.setenv("DISTMAP_TOKEN", "hunter2")
    with pytest.raises(TokenError, match="the variable DISTMAP_TOKEN is not of the form"):
        load_token()
    assert not token_path().exists()


def test_the_users_file_is_made_when_first_needed(nothing_configured: Path) -> None:
    """Directory 0700, file 0600, nothing else left behind; the next one reads it."""
    first = load_token()
    path = token_path()
    assert path.is_relative_to(nothing_configured)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["token"]
    assert load_token() == first


def test_many_at_once_make_one_token() -> None:
    """Whoever comes first wins; the others read the same."""
    start = threading.Barrier(8)
    found: list[Secret] = []

    def load() -> None:
        start.wait()
        found.append(load_token())

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert os.listdir(token_path().parent) == ["token"]


def test_a_directory_that_cannot_be_made(nothing_configured: Path) -> None:
    """Said with the path and the way out."""
    write(nothing_configured / ".config", "a file in the way")
    with pytest.raises(TokenError, match=r"token cannot be made: .*; set DISTMAP_TOKEN_FILE"):
        load_token()


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", None, ".config/distmap/token"),
        ("linux", "XDG_CONFIG_HOME", "elsewhere/distmap/token"),
        ("darwin", None, "Library/Application Support/distmap/token"),
        ("win32", "APPDATA", "elsewhere/distmap/token"),
        ("win32", None, "AppData/Roaming/distmap/token"),
    ],
)
def test_the_users_file_by_platform(
    platform: str, variable: str | None, expected: str, nothing_configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each system keeps such things."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv("APPDATA", raising=False)
    if variable:
        monkeypatch.setenv(variable, str(nothing_configured / "elsewhere"))
    assert token_path() == nothing_configured / expected


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_file_open_to_others_is_refused(mode: int, nothing_configured: Path) -> None:
    """With the command that mends it."""
    path = write(nothing_configured / "token", Secret.generate().reveal(), mode)
    with pytest.raises(TokenError, match=rf"open to others \(mode {mode:04o}\); do: chmod 600 {path}"):
        load_token(token_file=path)


def test_a_file_of_another_user_is_refused(nothing_configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may change it could choose our token."""
    path = write(nothing_configured / "token", Secret.generate().reveal())
    if os.geteuid() == 0:  # files of root are taken, as root could read everything anyway
        os.chown(path, 54321, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(TokenError, match="belongs to another user"):
        load_token(token_file=path)


def test_only_regular_files_are_read(nothing_configured: Path) -> None:
    """A pipe does not block, a directory does not confuse."""
    os.mkfifo(nothing_configured / "pipe", 0o600)
    (nothing_configured / "directory").mkdir()
    with pytest.raises(TokenError, match="not a regular file"):
        load_token(token_file=nothing_configured / "pipe")
    with pytest.raises(TokenError, match="not a regular file"):
        load_token(token_file=nothing_configured / "directory")


def test_comments_and_further_lines(nothing_configured: Path) -> None:
    """The first line that is no comment counts."""
    secret = Secret.generate()
    path = write(nothing_configured / "token", f"# of lab 7\n\n{secret.reveal()}\n{Secret.generate().reveal()}\n")
    assert load_token(token_file=path) == secret


@pytest.mark.parametrize("content", ["", "# nothing\n", "hunter2\n"])
def test_a_file_without_a_token(content: str, nothing_configured: Path) -> None:
    """The error names the file, not its content."""
    path = write(nothing_configured / "token", content)
    with pytest.raises(TokenError, match=f"the content of {path} is not of the form") as caught:
        load_token(token_file=path)
    assert "hunter2" not in str(caught.value)
