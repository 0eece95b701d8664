"""Addresses, and what of them is secret."""

from pathlib import Path

import pytest

from coordinator.sinks.prom_remote.credentials import (
    Address,
    Authorization,
    CredentialError,
    Secrets,
    basic,
    shown_address,
)


@pytest.mark.parametrize(
    ("text", "url", "user", "password"),
    [
        ("http://h:1/a/b?x=%20y", "http://h:1/a/b?x=%20y", None, ""),
        ("https://us%40er:p%3Aw@h/", "https://h/", "us@er", "p:w"),
        ("http://user@h", "http://h", "user", ""),
        ("http://a@b:c@h/w#part", "http://h/w", "a@b", "c"),
        ("http://[::1]:9/w", "http://[::1]:9/w", None, ""),
    ],
)
def test_addresses(text: str, url: str, user: str | None, password: str) -> None:
    address = Address.parse(text)
    assert (address.url, address.user, address.password) == (url, user, password)


@pytest.mark.parametrize(
    "text", ["h/w", "ftp://h/", "http://", "http://u:s3cret@/", "http://h:port/", "http://u:s3 cret@h/", ""]
)
def test_what_is_no_address_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="must begin|has no host|is not an URL|has white space") as caught:
        Address.parse(text)
    assert "s3" not in str(caught.value)


def test_what_is_shown_of_an_address() -> None:
    assert shown_address("https://u:p@h:1/w?token=x#y") == "https://h:1/w?…"
    assert shown_address("http://h/w") == "http://h/w"
    assert shown_address("http://[u:p") == "an address that is no URL"


def test_masking() -> None:
    secrets = Secrets(["pass%20word", "pass", "x", ""])
    assert secrets.mask("pass word, pass%20word, password, x") == "***, ***, ***word, x"
    secrets.add("later")
    assert secrets.mask("sooner or later") == "sooner or ***"
    address = Address.parse("http://user:s3cret@h/w?key=t0ken&n=1")
    assert Secrets(address.secrets).mask(f"s3cret t0ken {basic('user', 's3cret')} n=1") == "*** *** *** n=1"


def test_authorization_without_a_file() -> None:
    assert Authorization(Secrets()).header() is None
    assert Authorization(Secrets(), user="u", password="p").header() == "Basic dTpw"
    assert Authorization(Secrets(), user="u", password="p").read_again() is False


def test_files_of_secrets(tmp_path: Path) -> None:
    file = tmp_path / "token"
    secrets = Secrets()
    token = Authorization(secrets, file=str(file))
    with pytest.raises(CredentialError, match="cannot be read: No such file"):
        token.header()
    file.write_text("one-token\r\n")
    assert token.header() == "Bearer one-token"
    assert token.read_again() is False
    file.write_text("another-token\n")
    assert token.read_again() is True
    assert secrets.mask("one-token another-token") == "*** ***"
    for content, problem in ((b"a\nb", "more than one line"), (b"\xff", "not UTF-8")):
        file.write_bytes(content)
        with pytest.raises(CredentialError, match=problem):
            token.header()
