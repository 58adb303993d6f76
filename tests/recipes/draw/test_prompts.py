"""Prompts out of files as people write them."""

from lt.recipes.draw.prompts import read_prompts


def test_a_file_of_prompts_may_come_from_any_editor(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"\xef\xbb\xbfa cat\r\n\r\n  \r\n\xe4\xb8\x80\xe5\x8f\xaa\xe7\x8c\xab \r\n")
    assert read_prompts(file) == ["a cat", "一只猫"], "no byte order mark, no blank lines"


def test_only_line_ends_end_a_prompt(tmp_path):
    """Python's own `splitlines` breaks at U+2028 and U+0085 too: two prompts would be four."""
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa cat\u2028on a mat\na dog\u0085in fog\r\n".encode())
    assert read_prompts(file) == ["a cat\u2028on a mat", "a dog\u0085in fog"]
