"""Recipes: each builds its typed configuration, the command line wins, and mistakes name the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest

from codi.data.hub import HUB_SETS
from codi.errors import CodiError, RecipeError
from codi.methods.method import build_method
from codi.modeling.backbone import build_base
from codi.modeling.configuration import LoraSettings
from codi.training.recipes import load_recipe, recipe_names, recipe_text

PAPER = {
    # name: learning rate, epochs, batch, accumulation, beta, length filter
    "gpt2-gsm8k-aug": (3e-3, 40, 64, 2, 1, 1000),
    "gpt2-gsm8k-aug-nl": (3e-3, 40, 64, 2, 1, 1000),
    "llama1b-gsm8k-aug": (8e-4, 10, 32, 4, 20, 200),
    "llama1b-gsm8k-aug-nl": (8e-4, 3, 32, 4, 20, 256),
    "gpt2-commonsenseqa": (3e-3, 50, 64, 2, 1, 1000),
    "llama1b-commonsenseqa": (8e-4, 3, 32, 2, 20, 1000),
}

OTHERS = {
    "quickstart": "codi",
    "quickstart-cot-sft": "cot-sft",
    "quickstart-no-cot-sft": "no-cot-sft",
    "quickstart-start": "cot-sft",
    "word-problems": "codi",
    "word-problems-small": "codi",
    "small-base": "language-model",
    "small-codi": "codi",
    "small-codi-adaptive": "codi-adaptive",
    "small-codi-with-last-step": "codi",
    "small-codi-without-l1": "codi",
    "small-codi-without-projection": "codi",
    "small-coconut": "coconut",
    "small-cot-sft": "cot-sft",
    "small-cot-sft-start": "cot-sft",
    "small-icot": "icot",
    "small-kava": "kava",
    "small-lotus": "lotus",
    "small-no-cot-sft": "no-cot-sft",
    "small-pause-tokens": "pause-tokens",
    "small-pccot": "pccot",
    "small-sim-cot": "sim-cot",
    "small-sim-cot-coconut": "sim-cot-coconut",
    "small-start": "cot-sft",
    "small-static-teacher": "codi-static-teacher",
    "gpt2-gsm8k-aug-coconut": "coconut",
    "gpt2-gsm8k-aug-icot": "icot",
    "gpt2-gsm8k-aug-pccot": "pccot",
    "llama1b-gsm8k-aug-pccot": "pccot",
    "gpt2-gsm8k-aug-kava": "kava",
    "llama1b-gsm8k-aug-kava": "kava",
    "gpt2-gsm8k-aug-sim-cot": "sim-cot",
    "llama1b-gsm8k-aug-sim-cot": "sim-cot",
    "gpt2-gsm8k-aug-lotus": "lotus",
    "llama1b-gsm8k-aug-lotus": "lotus",
}


def test_all_recipes_are_there() -> None:
    assert recipe_names() == sorted([*PAPER, *OTHERS])


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_loads_and_says_what_it_is(name: str) -> None:
    config = load_recipe(name)
    assert build_method(config.method).name == OTHERS.get(name, "codi")
    assert (config.model.base is None) != (config.model.base_config is None)
    first = recipe_text(name).splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 10


@pytest.mark.parametrize("name", sorted(PAPER))
def test_paper_recipe_has_the_published_settings(name: str) -> None:
    rate, epochs, batch, accumulation, beta, longest = PAPER[name]
    config = load_recipe(name)
    training = config.training
    assert training["learning_rate"] == rate
    assert training["num_train_epochs"] == epochs
    assert training["per_device_train_batch_size"] == batch
    assert training["gradient_accumulation_steps"] == accumulation
    assert config.method["beta"] == beta
    assert config.data.max_tokens == longest
    assert isinstance(config.model.lora, LoraSettings)
    assert (config.model.lora.rank, config.model.lora.alpha, config.model.lora.dropout) == (128, 32, 0.1)
    common = {"weight_decay": 0.1, "warmup_steps": 0.03, "lr_scheduler_type": "cosine", "max_grad_norm": 2.0}
    assert common.items() <= training.items()
    assert training["bf16"] is True
    assert training["seed"] == 11
    rows = (config.model.train_thought_tokens, config.model.new_rows, config.model.softmax)
    assert rows == (False, "mean", "added-rows")
    assert config.model.base_dtype == "bfloat16"
    assert f"codi train {name} " in recipe_text(name)


@pytest.mark.parametrize("name", sorted(PAPER))
def test_paper_recipe_never_validates_on_what_the_paper_tests_on(name: str) -> None:
    data = load_recipe(name).data
    assert data.train in HUB_SETS
    assert data.validation in HUB_SETS
    assert data.validation_split in HUB_SETS[data.validation].splits
    assert "test" not in data.validation_split
    assert data.exclude_validation_questions
    if data.validation == "commonsenseqa-cot":
        assert data.validation_split == "train"
        assert load_recipe(name).scorer == "letter"


def test_command_line_wins_over_yaml() -> None:
    overrides = [
        "training.learning_rate=1e-4",
        "method.latents=3",
        "model.lora.rank=8",
        "data.max_tokens=null",
    ]
    config = load_recipe("gpt2-gsm8k-aug", overrides)
    assert config.training["learning_rate"] == 1e-4
    assert config.method["latents"] == 3
    assert config.model.lora is not None
    assert config.model.lora.rank == 8
    assert config.data.max_tokens is None
    assert config.training["num_train_epochs"] == 40  # the rest stays


def test_overrides_are_applied_in_order() -> None:
    assert load_recipe("word-problems", ["method.beta=2", "method.beta=3"]).method["beta"] == 3


@pytest.mark.parametrize("method", ["cot-sft", "no-cot-sft"])
@pytest.mark.parametrize("name", recipe_names())
def test_baselines_are_one_override_away(name: str, method: str) -> None:
    config = load_recipe(name, [f"method.name={method}"])
    if load_recipe(name).method["name"] != method:  # else it keeps the recipe's options
        assert config.method == {"name": method}
    codi = load_recipe(name)
    assert (config.model, config.data, config.training) == (codi.model, codi.data, codi.training)


def test_published_settings_of_coconut_and_icot() -> None:
    coconut = load_recipe("gpt2-gsm8k-aug-coconut")
    assert coconut.method == {
        "name": "coconut", "c_thought": 2, "max_stage": 3, "explicit_epochs": 25, "epochs_per_stage": 3,
        "reset_optimizer": "epoch",
    }  # fmt: skip
    assert coconut.training["bf16"] is False
    assert (coconut.training["learning_rate"], coconut.training["num_train_epochs"]) == (1e-4, 50)
    assert (coconut.model.lora, coconut.model.projection) == (None, False)
    assert (coconut.text.question_suffix, coconut.text.step_suffix) == ("\n", "\n")
    icot = load_recipe("gpt2-gsm8k-aug-icot")
    assert icot.method == {
        "name": "icot", "remove_per_epoch": 8, "remove_all_beyond": 39,
        "remove_all_when": "reached", "extra_from": "start", "reset_optimizer": "while-any-left",
    }  # fmt: skip
    assert (icot.training["learning_rate"], icot.training["num_train_epochs"]) == (5e-5, 100)
    for config in (coconut, icot):
        batch = config.training["per_device_train_batch_size"]
        assert batch * config.training.get("gradient_accumulation_steps", 1) == (
            128 if config is coconut else 32
        )
        build_method(config.method).check_run(config.model, True, config.training["num_train_epochs"])


def test_paper_scale_recipes_mix_lengths_in_a_batch_and_the_small_ones_keep_their_protocol() -> None:
    names = [name for name in recipe_names() if name.startswith(("gpt2-", "llama1b-"))]
    assert len(names) == 16
    assert not any(load_recipe(name).data.group_by_length for name in names)
    for name in recipe_names():
        if name.startswith("small-"):
            model, method = load_recipe(name).model, build_method(load_recipe(name).method)
            assert (model.new_rows, model.softmax) == ("drawn", "vocabulary")
            if method.name == "icot":
                kept = (method.remove_all_when, method.extra_from, method.reset_optimizer)  # type: ignore[attr-defined]
                assert kept == ("passed", "removal", "removal")
            elif "coconut" in method.name:
                assert method.reset_optimizer == "stage"  # type: ignore[attr-defined]


def test_options_given_with_another_method_are_kept_and_checked() -> None:
    config = load_recipe("word-problems", ["method.beta=5", "method.name=codi"])
    assert config.method["beta"] == 5
    with pytest.raises(RecipeError, match="beta"):
        load_recipe("gpt2-gsm8k-aug", ["method.beta=5", "method.name=cot-sft"])


def test_naming_the_same_method_keeps_its_options() -> None:
    assert load_recipe("llama1b-gsm8k-aug", ["method.name=codi"]).method["beta"] == 20


def test_numbers_with_exponents_are_numbers_in_every_section(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "method: {name: codi, beta: 1e1}\n"
        "model: {base: x, projection_dropout: 1e-1, lora: {dropout: 2e-1}}\n"
        "training: {learning_rate: 3e-3}\n"
    )
    config = load_recipe(str(file))
    assert config.method["beta"] == 10
    assert config.model.projection_dropout == 0.1
    assert config.model.lora is not None
    assert config.model.lora.dropout == 0.2
    assert config.training["learning_rate"] == 3e-3


def test_an_empty_separator_can_be_given() -> None:
    config = load_recipe(
        "word-problems", ["text.answer_separator=", "text.answer_prompt=The answer is boxed{"]
    )
    assert config.text.answer_separator == ""


@pytest.mark.parametrize(
    ("override", "wrong", "nearest"),
    [
        ("method.latent=3", "latent", "latents"),
        ("method.name=cody", "cody", "codi"),
        ("model.projektion=false", "projektion", "projection"),
        ("model.lora.ranc=3", "ranc", "rank"),
        ("text.answer_promt=x", "answer_promt", "answer_prompt"),
        ("data.max_token=3", "max_token", "max_tokens"),
        ("data.columns.questoin=q", "questoin", "question"),
        ("training.learning_rat=1", "learning_rat", "learning_rate"),
        ("trainin.learning_rate=1", "trainin", "training"),
        ("scorers=codi", "scorers", "scorer"),
    ],
)
def test_unknown_key_names_the_nearest(override: str, wrong: str, nearest: str) -> None:
    with pytest.raises(RecipeError, match=f"(?s)'{wrong}'.*Did you mean '{nearest}'"):
        load_recipe("gpt2-gsm8k-aug", [override])


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"'gpt2-gsm8k-aug'\?.*Known recipes"):
        load_recipe("gpt2-gsm8k-augg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no settings"),
        ("- a\n- b\n", "no settings"),
        ("method: {name: codi}\n", "no section 'model'"),
        ("method: [unclosed\n", "not valid YAML"),
        ("method: {name: codi}\nmodel: {base: x}\ntraining: 3\n", "must be a section"),
        ("method: {name: codi}\nmodel: {base: x}\ndata: words\n", "must be a section"),
    ],
)
def test_broken_recipe_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(file))


@pytest.mark.parametrize("override", ["training.learning_rate", "=3", "tokenizer.name=x"])
def test_what_is_no_setting(override: str) -> None:
    with pytest.raises(CodiError):
        load_recipe("word-problems", [override])


def test_missing_recipe_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml"):
        load_recipe(str(tmp_path / "nowhere.yaml"))


def test_effective_configuration_can_be_read_back(tmp_path: Path) -> None:
    import yaml

    config = load_recipe("llama1b-gsm8k-aug", ["method.latents=4"])
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config.as_dict()))
    assert load_recipe(str(file)) == config


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("method.latents=abc", "a whole number"),
        ("method.latents=2.5", "a whole number"),
        ("method.beta=abc", "a number"),
        ("method.share_question=perhaps", "true or false"),
        ("model.lora=16", "a section of its own keys or null"),
        ("model.projection_width=wide", "a whole number or null"),
        ("data.train=5", "text"),
        ("data.train_limit=abc", "a whole number or null"),
        ("data.max_tokens=1.5", "a whole number or null"),
        ("training.seed=abc", "a whole number"),
        ("training.max_steps=[1", "not valid YAML"),
        ("scorer=cody", "Did you mean 'codi'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(override: str, said: str) -> None:
    key = override.partition("=")[0].rpartition(".")[2]
    with pytest.raises(CodiError) as caught:
        load_recipe("word-problems", [override])
    assert said in str(caught.value)
    assert key in str(caught.value)


def test_unknown_key_of_a_base_configuration_names_the_nearest() -> None:
    config = load_recipe("word-problems", ["model.base_config.hiden_size=64"])
    with pytest.raises(RecipeError, match="hidden_size"):
        build_base(config.model)
