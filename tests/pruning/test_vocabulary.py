"""Fewer tokens: the same outputs, and the same tokens for the texts that were named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pretrained import FAMILIES, TEXT, VOCABULARY, T
from tiny_tokenizers import TOKENIZERS, bytes_bpe, fast, word_piece

from torchthin.errors import ConfigError, InputError, ProofError
from torchthin.integrations.transformers import keep_tokens

KEPT_TEXTS = ["the fox removes channels", "a smaller dog computes 123"]


def llama(size: int) -> Any:
    torch.manual_seed(0)
    config = T.LlamaConfig(
        vocab_size=size, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    return T.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_texts_are_written_with_the_same_tokens_and_scores(kind: str, tmp_path: Path) -> None:
    tokenizer = fast(TOKENIZERS[kind]())
    model = llama(len(tokenizer) + 5)  # rows that fill up to a good number
    result = keep_tokens(model, tokenizer=tokenizer, texts=KEPT_TEXTS)
    result.save_pretrained(tmp_path / "small")
    smaller = T.AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    again = T.AutoTokenizer.from_pretrained(tmp_path / "small")
    assert result.proof.exact
    assert len(again) == len(result.kept) == smaller.config.vocab_size < len(tokenizer)
    assert smaller.lm_head.weight is smaller.model.embed_tokens.weight
    for text in KEPT_TEXTS:
        old, new = (each(text, return_tensors="pt")["input_ids"] for each in (tokenizer, again))
        assert [result.kept[number] for number in new[0]] == old[0].tolist()
        assert again.decode(new[0]) == tokenizer.decode(old[0])
        with torch.no_grad():
            expected, seen = model(old).logits[..., list(result.kept)], smaller(new).logits
        torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-6)


def test_other_words_of_the_same_letters_can_still_be_written() -> None:
    tokenizer = fast(word_piece())
    result = keep_tokens(llama(len(tokenizer)), tokenizer=tokenizer, texts=KEPT_TEXTS)
    ids = result.tokenizer("foxes")["input_ids"]
    assert result.tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("name", ["gpt2", "bert", "bart", "t5"])
def test_every_family_computes_the_same_for_kept_tokens(name: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    kept = sorted({0, 1, 2, *TEXT["input_ids"].flatten().tolist(), 95})
    result = keep_tokens(model, kept)
    assert list(result.kept) == kept
    new = {
        key: torch.searchsorted(torch.tensor(kept), value.contiguous())
        for key, value in family.inputs.items()
    }
    with torch.no_grad():
        expected, seen = model(**family.inputs)[0], result.model(**new)[0]
    if expected.shape[-1] == VOCABULARY:
        expected = expected[..., kept]
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-6)
    assert result.model.get_input_embeddings().weight.shape[0] == len(kept)


def test_ids_of_the_configuration_follow_and_generation_is_the_same() -> None:
    model = FAMILIES["bart"].model()
    model.config.decoder_start_token_id = 90
    model.generation_config.update(eos_token_id=[2, 80], suppress_tokens=[5, 90, 94], do_sample=False)
    kept = [0, 1, 2, 7, 9, 94]
    result = keep_tokens(model, kept)
    new = {old: number for number, old in enumerate(result.kept)}
    assert result.kept == (0, 1, 2, 7, 9, 80, 90, 94)
    config = result.model.generation_config
    assert result.model.config.decoder_start_token_id == new[90]
    assert config.eos_token_id == [new[2], new[80]]
    assert config.suppress_tokens == [new[90], new[94]]  # 5 cannot be written any more


def test_the_number_of_tokens_is_rounded_up() -> None:
    tokenizer = fast(bytes_bpe())
    result = keep_tokens(llama(len(tokenizer)), tokenizer=tokenizer, texts=KEPT_TEXTS, round_to=32)
    assert len(result.kept) % 32 == 0 and len(result.tokenizer) == len(result.kept)


def test_what_cannot_be_done_is_said() -> None:
    model = llama(20)
    with pytest.raises(InputError, match=r"0 to 19, the rows of the embedding. Got 20"):
        keep_tokens(model, [3, 20])
    with pytest.raises(ConfigError, match="nothing that keep_tokens should keep"):
        keep_tokens(model)
    with pytest.raises(ConfigError, match="need the model's tokenizer"):
        keep_tokens(model, texts=["a"])
    with pytest.raises(ConfigError, match=r"round_to of keep_tokens must be at least 1. Got 0"):
        keep_tokens(model, [1], round_to=0)
    with pytest.raises(InputError, match="must be a fast one"):
        keep_tokens(model, tokenizer=object(), texts=["a"])
    with pytest.raises(InputError, match="has no embedding of tokens"):
        keep_tokens(FAMILIES["vit"].model(), [1])
    with pytest.raises(InputError, match=r"must be the model's. It has a token with the id"):
        keep_tokens(model, tokenizer=fast(word_piece()), texts=["the"])


def test_a_model_that_reads_ids_in_its_own_way_is_refused() -> None:
    """Code that goes by the number of a token computes something else with other numbers."""

    class Odd(T.LlamaForCausalLM):  # type: ignore[misc, name-defined]
        def forward(self, input_ids: torch.Tensor, **how: Any) -> Any:
            how["attention_mask"] = (input_ids % 2 == 0).long()
            return super().forward(input_ids, **how)

    torch.manual_seed(0)
    with pytest.raises(ProofError, match="model of fewer tokens is another one"):
        keep_tokens(Odd(llama(20).config).eval(), [4, 7, 10, 13, 16])
