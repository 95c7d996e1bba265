"""The published folder under transformers alone: what it honours and refuses, its limits, its pipeline."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, pipeline

from codi.generation.latent_reasoner import LatentReasoner
from codi.publishing.published_folder import public_name, public_source, write_folder
from test_publish import QUESTIONS, lora_reasoner, refused
from tiny_checkpoints import tiny_reasoner

LONGEST = 160


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp(request.param)
    reasoner = lora_reasoner(folder, request.param)
    reasoner.save_pretrained(folder / "trained")
    write_folder(reasoner, folder / "trained", "org/mine", [], folder / "out")
    return Published(folder / "out", reasoner)


class Published:
    """A published folder, loaded as a stranger does, and the reasoner it was made from."""

    def __init__(self, folder: Path, reasoner: LatentReasoner) -> None:
        self.folder, self.reasoner = folder, reasoner
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()

    def texts(self, questions: list[str], **options: Any) -> list[str]:
        asked = self.asked(questions)
        ids = self.model.generate(**asked, **options)
        return self.said(ids, asked)

    def asked(self, questions: list[str]) -> dict[str, Tensor]:
        return dict(self.tokenizer(questions, return_tensors="pt", padding=True))

    def said(self, ids: Tensor, asked: dict[str, Tensor]) -> list[str]:
        after = ids[:, asked["input_ids"].shape[1] :]
        return list(self.tokenizer.batch_decode(after, skip_special_tokens=True))

    def own(self, questions: list[str], **options: Any) -> list[str]:
        return [answer.text for answer in self.reasoner.answer(questions, **options)]


def question_of(published: Published, tokens: int) -> str:
    text = " ".join(["apples"] * tokens)
    assert len(published.reasoner.text.question(text)) == tokens
    return text


def test_answers_go_to_the_last_position_and_no_further(published: Published) -> None:
    longest = question_of(published, LONGEST - 8 - len(published.reasoner.text.prompt_ids) - 16)
    beside = [longest, QUESTIONS[1]]
    assert published.texts(beside, max_new_tokens=400) == published.own(beside, max_new_tokens=400)
    assert published.texts(beside) == published.own(beside)


def test_a_question_too_long_is_refused_as_the_package_refuses_it(published: Published) -> None:
    with pytest.raises(ValueError, match=r"Question 2 has 150 tokens.* at most 160"):
        published.texts([QUESTIONS[0], question_of(published, 150)])
    with pytest.raises(ValueError, match=r"at most 160.*fewer latents"):
        published.texts(QUESTIONS, latents=140)


def test_lengths(published: Published) -> None:
    asked = published.asked(QUESTIONS)
    width = asked["input_ids"].shape[1]
    assert published.model.generate(**asked, max_length=width + 9).shape[1] <= width + 9
    prompt = len(published.reasoner.text.prompt_ids)
    by_length = published.texts(QUESTIONS, max_length=width + prompt + 4)
    assert by_length == published.own(QUESTIONS, max_new_tokens=4)
    with pytest.raises(ValueError, match="max_length is 3, but questions and answer prompt take"):
        published.texts(QUESTIONS, max_length=3)
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        published.texts(QUESTIONS, max_new_tokens=0)


def test_dictionaries_and_several_answers(published: Published) -> None:
    asked = published.asked(QUESTIONS)
    plain = published.model.generate(**asked, max_new_tokens=6)
    assert torch.equal(
        published.model.generate(**asked, max_new_tokens=6, return_dict_in_generate=True).sequences, plain
    )
    torch.manual_seed(1)
    sampled = published.model.generate(
        **asked, max_new_tokens=6, do_sample=True, temperature=3.0, num_return_sequences=4
    )
    assert sampled.shape[0] == 12
    assert torch.equal(sampled[:4, : plain.shape[1] - 6][0], sampled[:4][3][: plain.shape[1] - 6])
    assert len({tuple(row.tolist()) for row in sampled[:4]}) > 1
    torch.manual_seed(1)
    again = published.model.generate(
        **asked, max_new_tokens=6, do_sample=True, temperature=3.0, num_return_sequences=4
    )
    assert torch.equal(sampled, again)


def test_sampling_that_leaves_one_token_is_greedy(published: Published) -> None:
    greedy = published.texts(QUESTIONS, max_new_tokens=6)
    assert published.texts(QUESTIONS, max_new_tokens=6, do_sample=True, top_k=1) == greedy
    assert published.texts(QUESTIONS, max_new_tokens=6, do_sample=True, top_p=1e-9) == greedy
    for temperature in (1e-40, 1e-6, 1e-5):
        assert published.texts(QUESTIONS, max_new_tokens=6, do_sample=True, temperature=temperature) == greedy
    assert published.texts(QUESTIONS, max_new_tokens=6, do_sample=False, temperature=0.7, top_p=0.9) == greedy


@pytest.mark.parametrize(
    "neutral",
    [
        {"num_beams": 1}, {"repetition_penalty": 1.0}, {"use_cache": False}, {"logits_processor": []},
        {"num_return_sequences": 1}, {"output_scores": False}, {"min_new_tokens": 0}, {"streamer": None},
        {"generation_config": GenerationConfig()}, {"pad_token_id": 0}, {"length_penalty": 1.0},
    ],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_what_asks_for_nothing_is_taken(published: Published, neutral: dict[str, Any]) -> None:
    expected = published.own(QUESTIONS, max_new_tokens=5)
    assert published.texts(QUESTIONS, max_new_tokens=5, **neutral) == expected


@pytest.mark.parametrize(
    "refused",
    [
        {"num_beams": 4}, {"repetition_penalty": 1.2}, {"min_new_tokens": 3}, {"output_scores": True},
        {"stopping_criteria": [1]}, {"inputs_embeds": torch.zeros(1, 2, 3)}, {"assistant_model": object()},
        {"no_repeat_ngram_size": 2}, {"stop_strings": ["x"]}, {"streamer": object()}, {"anything": 1},
        {"generation_config": GenerationConfig(num_beams=3)}, {"num_return_sequences": 2},
        {"eos_token_id": 3}, {"max_new_tokens": "5"}, {"max_new_tokens": 2.5}, {"max_length": True},
        {"num_return_sequences": "2"}, {"do_sample": "no"}, {"return_dict_in_generate": 1},
        {"temperature": "hot", "do_sample": True}, {"temperature": float("nan"), "do_sample": True},
        {"temperature": float("inf"), "do_sample": True}, {"top_k": 2.5, "do_sample": True},
        {"top_p": "most", "do_sample": True}, {"latents": "3"}, {"latents": True},
    ],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_what_is_not_honoured_is_refused_by_its_name(published: Published, refused: dict[str, Any]) -> None:
    name = next(iter(refused))
    with pytest.raises(ValueError, match="num_beams" if name == "generation_config" else name):
        published.texts(QUESTIONS, **refused)


def test_questions_that_are_none(published: Published) -> None:
    asked = published.asked(QUESTIONS)
    with pytest.raises(ValueError, match="needs input_ids"):
        published.model.generate()
    with pytest.raises(ValueError, match="Question 3 is empty"):
        published.model.generate(
            input_ids=asked["input_ids"],
            attention_mask=asked["attention_mask"] * torch.tensor([[1], [1], [0]]),
        )
    with pytest.raises(ValueError, match="the model knows 0 to"):
        published.model.generate(input_ids=torch.tensor([[10**6]]))
    with pytest.raises(ValueError, match="latents is -1"):
        published.texts(QUESTIONS, latents=-1)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_without_a_mask_is_no_word_of_the_question(published: Published, side: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(published.folder, padding_side=side)
    ids = tokenizer(QUESTIONS, return_tensors="pt", padding=True)["input_ids"]
    assert (ids == tokenizer.pad_token_id).any()
    answers = published.model.generate(input_ids=ids, max_new_tokens=8)[:, ids.shape[1] :]
    said = published.tokenizer.batch_decode(answers, skip_special_tokens=True)
    assert said == published.own(QUESTIONS, max_new_tokens=8)


def test_a_row_that_may_begin_with_padding_or_a_text_needs_a_mask(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    pad = published.tokenizer.pad_token_id
    monkeypatch.setattr(published.model.config, "bos_token_id", pad)
    asked = published.asked(QUESTIONS)
    with pytest.raises(ValueError, match=f"begin with {pad}, .* Give attention_mask"):
        published.model.generate(input_ids=asked["input_ids"])
    assert published.model.generate(input_ids=asked["input_ids"][:1, :], max_new_tokens=2).shape[0] == 1
    assert published.texts(QUESTIONS, max_new_tokens=2) == published.own(QUESTIONS, max_new_tokens=2)


def test_ids_may_come_without_their_name(published: Published) -> None:
    asked = published.asked(QUESTIONS)
    named = published.model.generate(**asked, max_new_tokens=4)
    config = GenerationConfig(max_new_tokens=4)
    mask = asked["attention_mask"]
    assert torch.equal(published.model.generate(asked["input_ids"], config, attention_mask=mask), named)


@pytest.mark.parametrize("given", [{"input_ids": [[5, 6]]}, {"input_ids": torch.ones(1, 3)}])
def test_questions_of_the_wrong_type(published: Published, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a tensor of ids"):
        published.model.generate(**given)


def test_a_model_of_broken_numbers_says_so(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    head = published.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _module, _inputs, logits: logits * float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        published.texts(QUESTIONS)
    handle.remove()


def test_a_callers_call_wins_over_its_configuration(published: Published) -> None:
    config = GenerationConfig(max_new_tokens=2, do_sample=True, temperature=5.0)
    expected = published.own(QUESTIONS, max_new_tokens=7)
    said = published.texts(QUESTIONS, generation_config=config, max_new_tokens=7, do_sample=False)
    assert said == expected


def test_transformers_pipeline_answers_as_the_package_does(published: Published) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ask = pipeline("text-generation", model=published.model, tokenizer=published.tokenizer)
    said = [ask(q, max_new_tokens=8, return_full_text=False)[0]["generated_text"] for q in QUESTIONS]
    assert said == published.own(QUESTIONS, max_new_tokens=8)
    batched = ask(QUESTIONS, max_new_tokens=8, return_full_text=False, batch_size=3)
    assert [row[0]["generated_text"] for row in batched] == said
    torch.manual_seed(0)
    several = ask(QUESTIONS[0], max_new_tokens=8, do_sample=True, temperature=4.0, num_return_sequences=3)
    assert len(several) == 3


def test_thoughts_over_another_base_are_refused(published: Published, tmp_path: Path) -> None:
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    for file in published.folder.rglob("*"):
        if file.is_file():
            target = swapped / file.relative_to(published.folder)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
    weights = load_file(swapped / "model.safetensors")
    other = {name: torch.randn_like(weight) for name, weight in weights.items()}
    save_file(other, swapped / "model.safetensors", metadata={"format": "pt"})
    model: Any = AutoModelForCausalLM.from_pretrained(swapped, trust_remote_code=True)
    with pytest.raises(ValueError, match="not those that these thoughts were trained over"):
        model.generate(**published.asked(QUESTIONS))


def test_half_precision_knows_its_base(published: Published) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(
        published.folder, trust_remote_code=True, dtype=torch.bfloat16
    )
    assert model.generate(**published.asked(QUESTIONS), max_new_tokens=3).shape[0] == 3


def test_nothing_published_names_a_path_of_this_machine(published: Published, tmp_path: Path) -> None:
    run = tmp_path / "run"
    published.reasoner.save_pretrained(run)
    (run / "run.yaml").write_text(json.dumps({"data": {"train": str(tmp_path / "private" / "mine.jsonl")}}))
    write_folder(published.reasoner, run, "org/mine", [], tmp_path / "out")
    here = [str(tmp_path), str(published.folder.parent)]
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file() and file.suffix in (".json", ".md", ".py"):
            text = file.read_text(encoding="utf-8")
            assert not [path for path in here if path in text], file.name
    card = (tmp_path / "out" / "README.md").read_text()
    assert "mine.jsonl" in card
    assert "base_model" not in card


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("org/model", "org/model"), ("gpt2", "gpt2"), ("/home/me/model", None), ("./model", None),
        ("runs/mine/model", None), ("~/model", None), ("C:\\models\\mine", None), (None, None),
        ("../base", None),
    ],
)  # fmt: skip
def test_names_and_paths(name: str | None, public: str | None) -> None:
    assert public_name(name) == public


def test_sources_and_paths() -> None:
    assert public_source("gsm8k-aug") == "gsm8k-aug"
    assert public_source("word-problems?seed=2") == "word-problems?seed=2"
    assert public_source("hub:org/set?split=train") == "hub:org/set?split=train"
    assert public_source("/home/me/data/train.jsonl") == "a file of its author's, train.jsonl"


def test_what_is_no_name_on_the_hub_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    tiny_reasoner("codi", latents=3).save_pretrained(tmp_path / "trained")
    for name in ("not a name", "a/b/c", "-mine"):
        message = refused("publish", tmp_path / "trained", "--output", tmp_path / "out", f"--to={name}")
        assert "is no ORG/NAME of the hub" in message
        assert not (tmp_path / "out").exists()


def test_pushing_to_the_hub(tmp_path: Path) -> None:
    """`codi publish --to` against a server that takes what the hub takes."""
    from hub_stand_in import HubStandIn

    reasoner = lora_reasoner(tmp_path, "gpt2")
    reasoner.save_pretrained(tmp_path / "trained")
    with HubStandIn() as hub:
        done = subprocess.run(
            [sys.executable, "-m", "codi", "publish", str(tmp_path / "trained"), "--output",
             str(tmp_path / "out"), "--to", "org/mine", "--private"],
            capture_output=True, text=True, env=hub.environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert hub.created == [{"name": "mine", "organization": "org", "private": True}]
        sent = {name for name in hub.files if not name.startswith(".")}
        ours = {str(f.relative_to(tmp_path / "out")) for f in (tmp_path / "out").rglob("*") if f.is_file()}
        assert sent == ours
        for name in sent:
            assert hub.files[name] == (tmp_path / "out" / name).read_bytes()
        hub.refuses = True
        denied = subprocess.run(
            [sys.executable, "-m", "codi", "publish", str(tmp_path / "trained"), "--output",
             str(tmp_path / "out"), "--to", "org/mine", "--overwrite"],
            capture_output=True, text=True, env=hub.environment(),
        )  # fmt: skip
    assert denied.returncode == 2
    assert "could not be pushed to 'org/mine'" in denied.stderr
    assert "Traceback" not in denied.stderr
