"""Other programs read the tokenizer's files and come to the same ids and the same prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from shared.text.chat import Message, encode_dialogue, encode_prompt
from shared.text.tokenizer_files import write_tokenizer_files
from tests.support.tokenizers import SENTENCES, small_tokenizer

DIALOGUE: list[Message] = [
    {"role": "user", "content": " What is  the capital of France?\n"},
    {"role": "assistant", "content": "Paris.\n\n It's big!"},
    {"role": "user", "content": "And of Italy?"},
    {"role": "assistant", "content": "Rome 😀"},
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> AutoTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer_files(folder, small_tokenizer(), context_length=512)
    return AutoTokenizer.from_pretrained(folder)


def test_the_same_ids_for_text(theirs: AutoTokenizer) -> None:
    for sentence in SENTENCES:
        ids = theirs(sentence)["input_ids"]
        assert ids == small_tokenizer().encode(sentence)
        assert theirs.decode(ids) == sentence


def test_the_same_ids_for_a_chat(theirs: AutoTokenizer) -> None:
    ids = theirs.apply_chat_template(DIALOGUE, return_dict=False)
    assert ids == encode_dialogue(small_tokenizer(), DIALOGUE)[0]
    prompt = theirs.apply_chat_template(DIALOGUE[:3], add_generation_prompt=True, return_dict=False)
    assert prompt == encode_prompt(small_tokenizer(), DIALOGUE[:3])


def test_the_rendered_chat(theirs: AutoTokenizer) -> None:
    text = theirs.apply_chat_template(DIALOGUE[:3], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|user|> What is  the capital of France?\n<|assistant|>Paris.\n\n It's big!<|endoftext|>"
        "<|user|>And of Italy?<|assistant|>"
    )


def test_an_unknown_role_does_not_render(theirs: AutoTokenizer) -> None:
    with pytest.raises(Exception, match="unknown role: system"):
        theirs.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


def test_special_tokens_and_context(theirs: AutoTokenizer) -> None:
    assert (theirs.eos_token, theirs.eos_token_id) == ("<|endoftext|>", 0)
    assert theirs.pad_token_id == 0
    assert theirs.bos_token is None
    assert theirs.convert_tokens_to_ids(["<|user|>", "<|assistant|>"]) == [1, 2]
    assert set(theirs.all_special_ids) == {0, 1, 2}
    assert theirs.model_max_length == 512
    assert len(theirs) == small_tokenizer().vocab_size


def test_the_files_are_written_whole(tmp_path: Path) -> None:
    write_tokenizer_files(tmp_path, small_tokenizer())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
