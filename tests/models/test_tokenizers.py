"""Tokenizers against the reference ones on 10,000 generated texts, English, Chinese and hostile."""

import random
import unicodedata

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from transformers import BertTokenizer

from lt.models.nn.tokenizers import BertChineseTokenizer, ClipTokenizer, WordTokenizer, find_phrase, split_words

ENGLISH = "a photo of the red apple's isn't we'll they'd I'm 3.5mm don't 100% #tag @user &amp; &lt;b&gt; ''s 'LL"
EUROPEAN = "café naïve Zürich Ærø “quoted” … — schÃ¶n ß İ ı ﬁ ſ é ½ Ⅷ"
ASIAN = "北京 一只 猫的照片 漂亮的 画，在 草地上。 ＡＢＣ １２３ नमस्ते 한국어 ไทย 🍎 👩‍👧"
SPACES = ["\u00a0", "\u2028", "\x1c", "\t", "\n"]
WORDS = [*ENGLISH.split(), *EUROPEAN.split(), *ASIAN.split(), *SPACES]
ALPHABETS = [(32, 127), (0x4E00, 0x9FFF), (0xA0, 0x250), (0x20, 0x3000), (0x20, 0xD7FF), (0x1F300, 0x1F6FF)]


def generated(count):
    """Texts of known words and of random characters that Unicode has assigned (libraries disagree about the others)."""
    rng = random.Random(0)
    for _ in range(count):
        if rng.random() < 0.5:
            text = "".join(rng.choice(["", " ", "  "]) + rng.choice(WORDS) for _ in range(rng.randint(0, 40)))
        else:
            text = "".join(chr(rng.randrange(*rng.choice(ALPHABETS))) for _ in range(rng.randint(0, 40)))
        yield "".join(c for c in text if unicodedata.category(c) not in ("Cn", "Cs"))


@pytest.fixture(scope="module")
def texts():
    result = list(generated(10_000))
    assert sum(any("\u4e00" <= c <= "\u9fff" for c in text) for text in result) > 4000
    return result


def rows_that_differ(ours, theirs, texts):
    return [ascii(texts[i]) for i in (ours != theirs).any(1).nonzero()[:, 0][:5]]


def test_clip_numbers_are_open_clips(texts):
    ids, mask = ClipTokenizer()(texts)
    assert rows_that_differ(ids, SimpleTokenizer()(texts), texts) == []
    assert torch.equal(mask.sum(1), (ids == 49407).int().argmax(1) + 1)


def test_chinese_numbers_are_bert_tokenizers(texts):
    ours = BertChineseTokenizer()
    reference = BertTokenizer(vocab={name: i for i, name in enumerate(ours.words)})
    theirs = reference(texts, truncation=True, max_length=32, padding="max_length", return_tensors="pt")
    ids, mask = ours(texts)
    assert rows_that_differ(ids, theirs["input_ids"], texts) == []
    assert torch.equal(mask, theirs["attention_mask"].bool())


def test_known_numbers():
    assert ClipTokenizer()(["a photo of a cat"]).ids[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    chinese = BertChineseTokenizer()
    assert (chinese.vocabulary, chinese.length, chinese.pad, chinese.start, chinese.end) == (21128, 32, 0, 101, 102)
    assert chinese(["一只猫"]).ids[0, :6].tolist() == [101, 671, 1372, 4344, 102, 0]
    assert len(chinese.encode(["<人名>"])[0]) == 4  # Wukong's name mark is no entry of the vocabulary


def test_long_texts_are_cut_before_the_end():
    for tokenizer in (ClipTokenizer(), BertChineseTokenizer(), WordTokenizer(["一"], length=8)):
        ids, mask = tokenizer(["一" * 200, ""])
        assert mask[0].all() and ids[0, -1] == tokenizer.end and ids[0, 0] == tokenizer.start
        assert mask[1].sum() == 2 and ids[1, :2].tolist() == [tokenizer.start, tokenizer.end]
        assert len(tokenizer.pieces("一" * 200)) == tokenizer.length
        empty = tokenizer([])
        assert empty.ids.shape == empty.mask.shape == (0, tokenizer.length)


@pytest.mark.parametrize(
    "hostile", ["\ud800 half a pair \udfff", "a\x00b", "<end_of_text> [SEP] <|endoftext|> <end>", "‮rtl‬"]
)
def test_hostile_captions_pass_and_spell_no_special_tokens(hostile):
    for tokenizer in (ClipTokenizer(), BertChineseTokenizer(), WordTokenizer(["end"])):
        ids, mask = tokenizer([hostile])
        inner = ids[0, 1 : int(mask.sum()) - 1]
        assert not torch.isin(inner, torch.tensor([tokenizer.start, tokenizer.end])).any()


def test_words_and_characters():
    assert split_words("Two RED apples, 左边的一只Cat！") == ["two", "red", "apples", ",", *"左边的一只", "cat", "!"]
    tokenizer = WordTokenizer(["a", "red", "fox", "apple", *"一只红狐狸"], length=6)
    assert tokenizer.vocabulary == 4 + 9
    ids, mask = tokenizer(["a RED zebra"])
    assert ids[0].tolist() == [2, 4, 5, 1, 3, 0] and mask[0].tolist() == [True] * 5 + [False]
    assert tokenizer.pieces("a red zebra") == ["<start>", "a", "red", "<unknown>", "<end>"]
    assert WordTokenizer(tokenizer.words, 6)(["狐狸"]).ids.tolist() == tokenizer(["狐狸"]).ids.tolist()
    with pytest.raises(ValueError, match="repeats"):
        WordTokenizer(["a", "a"])


def test_pieces_show_what_a_place_stands_for():
    assert ClipTokenizer().pieces("a Koala & 2 apples") == ["<start>", "a", "koala", "&", "2", "apples", "<end>"]
    assert BertChineseTokenizer().pieces("一只 koala") == ["[CLS]", "一", "只", "ko", "ala", "[SEP]"]


def test_phrases_are_found_by_whole_words():
    clip, chinese = ClipTokenizer(), BertChineseTokenizer()
    assert find_phrase(clip, "a pineapple left of a red apple", "red apple") == [6, 7]
    assert find_phrase(clip, "a pineapple", "apple") == []
    assert find_phrase(chinese, "一只红狐狸在树下", "狐狸") == [4, 5]
    assert find_phrase(chinese, "一" * 40 + "狐", "狐") == []
    assert find_phrase(clip, "anything", "") == []


def test_another_vocabulary_file(tmp_path):
    (tmp_path / "v.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n猫\n", encoding="utf-8")
    tokenizer = BertChineseTokenizer(4, tmp_path / "v.txt")
    assert tokenizer(["猫狗"]).ids.tolist() == [[2, 4, 1, 3]]
    (tmp_path / "w.txt").write_text("[PAD]\n猫\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"it lacks \[CLS\], \[SEP\], \[UNK\]"):
        BertChineseTokenizer(4, tmp_path / "w.txt")
