"""What a proxy on the way is given, and what is never shown of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from distmap.errors import ConnectError
from distmap.transport.first_hop import Headers, load_hop
from distmap.transport.tls import verified_context


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the desk says nothing."""
    for name in ("DISTMAP_HEADER_FILE", "DISTMAP_CA"):
        monkeypatch.delenv(name, raising=False)


def header_file(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_headers_of_a_mapping() -> None:
    """They are sent as they are, and a text shows their names alone."""
    headers = Headers({"Authorization": "token abc"})
    assert headers.reveal() == {"Authorization": "token abc"}
    assert headers
    assert repr(headers) == "<headers Authorization>"
    assert "abc" not in repr(load_hop(headers))
    with pytest.raises(TypeError, match="do not pickle"):
        pickle.dumps(headers)


def test_headers_of_a_file_are_read_for_each_connection(tmp_path: Path) -> None:
    """A token that is replaced in the file counts at once."""
    path = header_file(tmp_path / "headers", "# hub\nAuthorization: token one\nCookie: a=b; c=d\n")
    headers = load_hop(path).headers
    assert headers.reveal() == {"Authorization": "token one", "Cookie": "a=b; c=d"}
    header_file(path, "Authorization: token two")
    assert headers.reveal() == {"Authorization": "token two"}
    assert "token" not in repr(headers)


def test_what_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are named there; what is given counts more."""
    monkeypatch.setenv("DISTMAP_HEADER_FILE", str(header_file(tmp_path / "headers", "X-Lab: 7")))
    monkeypatch.setenv("DISTMAP_CA", "lab.pem")
    hop = load_hop()
    assert hop.headers.reveal() == {"X-Lab": "7"}
    assert hop.ca == "lab.pem"
    hop = load_hop({"X-Lab": "8"}, "other.pem", "http://proxy:3128")
    assert (hop.headers.reveal(), hop.ca, hop.proxy) == ({"X-Lab": "8"}, "other.pem", "http://proxy:3128")


def test_a_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tilde is understood, which no shell replaces in a notebook or in a variable."""
    monkeypatch.setenv("HOME", str(tmp_path))
    header_file(tmp_path / "headers", "X-Lab: 7")
    hop = load_hop("~/headers", "~/ca.pem")
    assert hop.headers.reveal() == {"X-Lab": "7"}
    assert hop.ca == str(tmp_path / "ca.pem")


def test_a_proxy_with_a_password_is_not_shown() -> None:
    """What a hop needs can be logged."""
    assert "s3cret" not in repr(load_hop(proxy="http://ann:s3cret@proxy:1"))


def test_nothing_is_needed() -> None:
    """Without any of it there are no headers, and the proxy is that of the system."""
    hop = load_hop()
    assert not hop.headers
    assert hop.ca is None
    assert hop.proxy is None


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("token-of-the-hub", "line 1 of .* is no header"),
        ("Bad name: x", "'Bad name' is no name of a header"),
        ("Host: elsewhere", "the header Host cannot be set"),
        ("Sec-WebSocket-Key: x", "cannot be set"),
        ("origin: https://evil", "cannot be set"),
        ("X-Lab: a\x07b", "the value of the header X-Lab has characters"),
    ],
)
def test_what_is_no_header(line: str, sentence: str, tmp_path: Path) -> None:
    """Said when the pool is made, without the value."""
    with pytest.raises(ConnectError, match=sentence) as caught:
        load_hop(header_file(tmp_path / "headers", line))
    assert "token-of-the-hub" not in str(caught.value)


def test_a_value_with_a_line_end() -> None:
    """It would be another header."""
    with pytest.raises(ConnectError, match="the value of the header X has characters"):
        Headers({"X": "a\r\nAuthorization: b"})


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    """A missing file and one without certificates are named."""
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for path in (tmp_path / "nowhere.pem", empty):
        with pytest.raises(ConnectError, match=rf"the certificates of {path} \(ca=, DISTMAP_CA\) cannot be used"):
            verified_context(path)
    verified_context(tmp_path)  # a folder of them may be empty
