"""Extraction's parts: the matcher, LoRA's parameters against closed forms, questions as tokens, answers, tuning."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.tokenizer import wrap
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.stage import build
from knowcap.extraction import ExtractionError, Tuning, matches, results
from knowcap.extraction import questions as questions_module
from knowcap.extraction.answering import answer_nll, answers, normalize
from knowcap.extraction.questions import Question, questions_of
from knowcap.extraction.stored import StoredQuestions
from knowcap.extraction.tuning import QuestionDataset, attention_targets, is_tied, lora_config, save_adapter
from knowcap.knowledge.pools import BIRTH_DATES, format_birth_date, load_pools
from knowcap.models import build_model, model_config
from knowcap.models.loading import load_model
from knowcap.models.quiet import quiet_peft
from knowcap.recipe import Recipe


ASKED = Recipe(
    run_name="asked", model_name="gpt2-2-2", num_people=31, pools_fraction=0.05, num_templates=1, vocab_size=300,
    exposures=2, block_size=128, questions=True, control_people=0, renderings=1,
)  # fmt: skip


# The matcher


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("October 2, 1996.", "October 2, 1996"),
        (" October 2, 1996 ", "October 2, 1996"),
        ("Acme Inc.", "Acme Inc."),  # the abbreviation's period and the sentence's are one
        ("Acme Inc", "Acme Inc."),
        ("Acme Inc..", "Acme Inc."),
        ("Washington  D.C.", "Washington D.C."),
        ("St. Louis, MO.\n", "St. Louis, MO"),
    ],
)
def test_an_answer_matches_whatever_its_last_period_and_its_white_space(said: str, answer: str) -> None:
    assert matches(said, answer)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("October 2, 1997.", "October 2, 1996"),
        ("October 12, 1996.", "October 2, 1996"),
        ("October 2 1996.", "October 2, 1996"),
        ("Oct 2, 1996.", "October 2, 1996"),
        ("October 2, 1996. He", "October 2, 1996"),
        ("Acme.", "Acme Inc."),
        ("Acme Inc. and Sons.", "Acme Inc."),
        ("Washington DC.", "Washington D.C."),
        ("St Louis, MO.", "St. Louis, MO"),
        ("disney.", "Disney"),
        ("Disney+.", "Disney"),
        ("", "Disney"),
        (".", "Disney"),
    ],
)
def test_anything_else_does_not_match(said: str, answer: str) -> None:
    assert not matches(said, answer)


def test_no_two_values_of_a_list_are_taken_for_each_other() -> None:
    pools = load_pools()
    dates = [format_birth_date(i) for i in range(BIRTH_DATES)]
    for values in (dates, pools.birth_cities, pools.universities, pools.majors, pools.employers):
        assert len({normalize(value) for value in values}) == len(values)


# LoRA


def models() -> dict[str, tuple[PreTrainedModel, int]]:
    """Small models of d = 32 in 2 layers and 96 vocabulary rows, with inputs + outputs of what LoRA adapts a layer."""
    sizes = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = {"intermediate_size": 48, "num_key_value_heads": 2}
    gpt2 = GPT2Config(vocab_size=96, n_positions=32, n_embd=32, n_layer=2, n_head=4)
    return {
        "gpt2": (GPT2LMHeadModel(gpt2), 32 + 3 * 32),
        "neox": (GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, intermediate_size=64)), 32 + 3 * 32),
        "llama": (LlamaForCausalLM(LlamaConfig(**sizes, **llama)), (32 + 32) + (32 + 16)),
        "tied llama": (
            LlamaForCausalLM(LlamaConfig(**sizes, **llama, tie_word_embeddings=True)),
            (32 + 32) + (32 + 16),
        ),
    }


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "tied llama"])
@pytest.mark.parametrize(("embedding_rank", "rank"), [(8, 2), (32, 16), (2, 8)])
def test_lora_has_rank_times_inputs_and_outputs_parameters(name: str, embedding_rank: int, rank: int) -> None:
    from peft import get_peft_model

    model, width = models()[name]
    config = lora_config(model, rank, embedding_rank)
    with quiet_peft():
        adapted = get_peft_model(model, config)
    trained = {n: p.numel() for n, p in adapted.named_parameters() if p.requires_grad}
    assert sum(trained.values()) == 2 * rank * width + embedding_rank * (96 + 32)
    assert all("lora_" in n for n in trained), "the model's own weights stay"
    assert all(module.scaling == {"default": 1.0} for module in adapted.modules() if hasattr(module, "lora_A"))


def test_query_and_value_are_adapted_and_keys_only_where_they_are_fused() -> None:
    found = {name: attention_targets(model) for name, (model, _) in models().items()}
    assert found == {
        "gpt2": ("c_attn",), "neox": ("query_key_value",), "llama": ("q_proj", "v_proj"),
        "tied llama": ("q_proj", "v_proj"),
    }  # fmt: skip
    assert {name: is_tied(model) for name, (model, _) in models().items()} == {
        "gpt2": True, "neox": False, "llama": False, "tied llama": True,
    }  # fmt: skip


def test_unknown_architectures_and_too_large_ranks_are_reported() -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=1, state_size=4))
    with pytest.raises(ExtractionError, match="MambaForCausalLM has neither .* use --method full"):
        lora_config(mamba, 2, 2)
    with pytest.raises(ExtractionError, match="embedding_rank=33 exceeds the hidden size 32"):
        lora_config(models()["gpt2"][0], 2, 33)


@pytest.mark.parametrize("name", ["gpt2", "neox", "tied llama"])
def test_an_adapter_reloads_to_the_same_logits_from_wherever_the_run_folder_lies(tmp_path: Path, name: str) -> None:
    from peft import get_peft_model

    model, _ = models()[name]
    model.save_pretrained(tmp_path / "run" / "model")
    torch.manual_seed(1)
    with quiet_peft():
        adapted = get_peft_model(model.eval(), lora_config(model, 4, 8))
    for parameter in (p for p in adapted.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path / "run" / "extraction" / "lora-4-8"
    save_adapter(adapted, folder, "../../model")
    assert not list(folder.glob("*.md"))
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    ids = torch.arange(20).reshape(2, 10)
    with torch.inference_mode():
        expected, found = adapted(ids).logits, load_model(moved / "extraction" / "lora-4-8")(ids).logits
        assert torch.equal(expected, found)
        with quiet_peft():
            merged = adapted.merge_and_unload()(ids).logits
    assert torch.allclose(merged, expected, atol=1e-4) == (name == "neox"), (
        "a tied embedding's adapter can't be merged"
    )


# Questions as tokens


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedTokenizerFast, int]:
    """A data set folder, and the tokenizer that its recipe makes with the rows it needs."""
    run_dir = tmp_path_factory.mktemp("asked")
    tokenizer, rows = tokenizer_of(ASKED, corpus_of(ASKED))
    return build(ASKED, run_dir), wrap(tokenizer, 128), rows


def test_the_tokens_of_a_question_are_its_text_and_its_value_is_marked(asked) -> None:
    folder, tokenizer, rows = asked
    found = list(questions_of(folder, "train", tokenizer, rows))
    assert len(found) == 16 * 6
    for q in found:
        assert tokenizer.decode(q.prompt[1:]).strip() == f"{q.text} Answer:"
        assert tokenizer.decode(q.tokens[:-1]) == f" {q.answer}."
        first, end = q.value
        assert tokenizer.decode(q.tokens[first:end]).strip().startswith(q.answer.rstrip("."))
        assert q.prompt[0] == q.tokens[-1] == tokenizer.eos_token_id
        assert [t for t in q.labels() if t != -100] == list(q.tokens)
        assert [t for t in q.value_labels() if t != -100] == list(q.tokens[first:end])
    assert max(max(q.prompt + q.tokens) for q in found) < rows


def test_the_halves_that_are_asked_have_no_person_in_common(asked) -> None:
    folder, tokenizer, rows = asked
    train, test = ({q.entity for q in questions_of(folder, s, tokenizer, rows)} for s in ("train", "test"))
    assert (len(train), len(test)) == (16, 15) and not train & test
    assert len({q.entity for q in questions_of(folder, "test", tokenizer, rows, limit=4)}) == 4


def test_a_tokenizer_made_from_biographies_alone_is_reported_before_tuning(asked) -> None:
    recipe = replace(ASKED, questions=False)
    tokenizer, rows = tokenizer_of(recipe, corpus_of(recipe))
    with pytest.raises(ExtractionError, match="cannot encode .* questions: true"):
        list(questions_of(asked[0], "train", wrap(tokenizer, 128), rows))


# Answers


@pytest.fixture(scope="module")
def model(asked) -> PreTrainedModel:
    """A model with random weights, spread so that it is sure of much."""
    config = model_config("gpt2-2-2", vocab_size=asked[2], block_size=128, head_dim=16, initializer_range=0.4)
    return build_model(config, 3).eval()


def greedily(model: PreTrainedModel, question: Question, count: int) -> list[int]:
    """What a model says, one forward pass of the whole text a token."""
    ids = list(question.prompt)
    for _ in range(count):
        with torch.inference_mode():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == question.tokens[-1]:
            break
    return ids[len(question.prompt) :]


def test_greedy_answers_are_the_first_choices_whatever_the_batch(asked, model: PreTrainedModel) -> None:
    folder, tokenizer, rows = asked
    some = list(questions_of(folder, "test", tokenizer, rows, limit=3))
    said = answers(model, tokenizer, some, batch_size=64)
    assert said == answers(model, tokenizer, some, batch_size=1)
    longest = max(len(q.tokens) for q in some)
    expected = [[t for t in greedily(model, q, longest) if t != tokenizer.eos_token_id] for q in some]
    assert said == [tokenizer.decode(ids).strip() for ids in expected]
    assert len(set(said)) > 3


def test_beam_search_finds_answers_no_less_likely(asked, model: PreTrainedModel) -> None:
    folder, tokenizer, rows = asked
    some = list(questions_of(folder, "test", tokenizer, rows, limit=2))
    beam = answers(model, tokenizer, some, num_beams=4)
    assert beam == answers(model, tokenizer, some, num_beams=4, batch_size=2)
    assert beam != answers(model, tokenizer, some)


def test_the_nll_of_an_answer_is_that_of_its_values_tokens_alone(asked, model: PreTrainedModel) -> None:
    folder, tokenizer, rows = asked
    some = list(questions_of(folder, "test", tokenizer, rows, limit=2))
    found = answer_nll(model, some, batch_size=5)
    for q, nll in zip(some, found, strict=True):
        ids = torch.tensor([[*q.prompt, *q.tokens]])
        with torch.inference_mode():
            chances = model(ids).logits[0].double().log_softmax(-1)
        first, end = (len(q.prompt) + n for n in q.value)
        assert nll == pytest.approx(-sum(float(chances[n - 1, ids[0, n]]) for n in range(first, end)), rel=1e-5)


# Tuning


def test_every_question_is_asked_once_a_pass_in_an_order_of_its_own(asked) -> None:
    folder, tokenizer, rows = asked
    questions = list(questions_of(folder, "train", tokenizer, rows))
    lessons = QuestionDataset(questions, steps=8, batch_size=24, seed=5)
    assert len(lessons) == 2 * len(questions)
    shown = []
    for start in range(0, len(lessons), 24):
        batch = lessons.__getitems__(list(range(start, start + 24)))
        for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
            shown.append((tuple(ids).index(0, 1), tuple(t for t in ids if t), tuple(t for t in labels if t > 0)))
    first, second = shown[: len(questions)], shown[len(questions) :]
    texts = sorted(tuple(t for t in q.prompt + q.tokens if t) for q in questions)
    assert sorted(row[1] for row in first) == sorted(row[1] for row in second) == texts
    assert first != second
    ends = {tuple(t for t in q.prompt + q.tokens if t): tuple(t for t in q.tokens if t) for q in questions}
    assert all(ends[whole] == labelled for _, whole, labelled in shown), "prompts are not learned"


def test_questions_in_a_file_are_the_same_and_few_are_in_memory(asked, tmp_path: Path, monkeypatch) -> None:
    folder, tokenizer, rows = asked
    monkeypatch.setattr(questions_module, "_AT_ONCE", 10)
    alive, most = weakref.WeakValueDictionary(), []

    def counted(*values):
        made = Question(*values)
        alive[id(made)] = made
        most.append(len(alive))
        return made

    expected = list(questions_of(folder, "train", tokenizer, rows))
    monkeypatch.setattr(questions_module, "Question", counted)
    with StoredQuestions(questions_of(folder, "train", tokenizer, rows), tmp_path) as stored:
        assert len(most) == len(stored) == 96 and max(most) <= 2 * 10
        assert list(stored) == expected and stored[5:9] == expected[5:9] and stored[-1] == expected[-1]
        assert stored.num_tokens == sum(len(q.prompt) + len(q.tokens) for q in expected)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["numbers", "texts"])
def test_memorizable_figures_are_the_means_of_each_persons_means(tmp_path: Path, kind: str) -> None:
    generator = np.random.default_rng(4)
    ids = [i if kind == "numbers" else f"Q{i}" for i in range(40)]
    facts = [(ids[i], name, r) for i in range(40) for name in ("major", "employer") for r in range(1 + i % 3)]
    facts = [facts[i] for i in generator.permutation(len(facts))] + [(ids[3], "birth_city", 0)]
    entities, names, renderings = zip(*facts, strict=True)
    table = pa.table({"entity": entities, "attribute": names, "rendering": pa.array(renderings, pa.int32())})
    nll, match = generator.exponential(size=len(facts)), generator.random(len(facts)) < 0.5
    table = table.append_column("nll", pa.array(nll)).append_column("log2_candidates", pa.array(7.0 + 0 * nll))
    pq.write_table(table.append_column("greedy_match", pa.array(match)), tmp_path / "nll.parquet")
    people = [ids[i] for i in generator.permutation(40)[:15]]
    expected = {}
    for attribute in ("major", "employer"):
        pairs: dict = {}
        for (entity, name, _), n, m in zip(facts, nll, match, strict=True):
            if entity in people and name == attribute:
                pairs.setdefault(entity, []).append((float(m), 7.0 - float(n) / math.log(2)))
        expected[attribute] = tuple(np.mean([np.mean(of_one, axis=0) for of_one in pairs.values()], axis=0).tolist())
    assert results._memorized(tmp_path / "nll.parquet", pa.array(people)) == expected


def test_all_problems_of_a_tuning_are_reported_at_once() -> None:
    with pytest.raises(ExtractionError, match=r"rank=0.*steps=-1.*learning_rate=0"):
        Tuning.of(ASKED, rank=0, steps=-1, learning_rate=0.0)
    with pytest.raises(ExtractionError, match="method='adapter', expected lora, full, as_trained"):
        Tuning.of(ASKED, method="adapter")
    made = Tuning.of(ASKED, rank=4)
    assert (made.method, made.name, made.weight_decay) == ("lora", "lora-4-128", 0.1)
    assert np.array_equal(list(Tuning.of(ASKED, method="as_trained").settings()), ["method"])
