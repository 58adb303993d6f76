"""Captions under small pictures: wrapped to their width, and what does not fit cut."""

from lt.recipes.diffusion.lettering import LETTERS, LINES, captioned, font, wrapped

PROMPT = "a child in a red shirt and blue trousers waving beside a tall green tree in front of a house"


def test_a_prompt_is_wrapped_and_cut():
    lines = wrapped(PROMPT, 64)
    assert len(lines) == LINES and lines[-1].endswith("…") and PROMPT.startswith(f"{lines[0]} {lines[1]}")
    assert all(font(LETTERS).getlength(line) <= 64 for line in lines)
    assert wrapped("a cat", 64) == ["a cat"] and wrapped("  a\u2028cat\n", 640) == ["a cat"]
    assert "".join(wrapped(PROMPT, 2000)) == PROMPT


def test_words_without_blanks_and_words_too_long_fit_too():
    for text in (
        "一只红色的猫坐在绿色的垫子上看着窗外的蓝色天空和白云",
        "incomprehensibilities" * 3,
        "\ud800 broken",
        "",
    ):
        assert all(font(LETTERS).getlength(line) <= 48 for line in wrapped(text, 48))
        assert captioned(text, 48).shape[1:] == (48, 3)


def test_letters_are_black_on_white():
    page = captioned("a cat", 64)
    assert page.max() == 255 and page.min() < 100 and (page == 255).mean() > 0.5
