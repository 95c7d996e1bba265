"""Settings as they are typed: the kind of a setting decides what `no`, `on`, `010` or `12:30:45` means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from codi.cli import app
from codi.errors import RecipeError
from codi.training.recipes import RunConfig, build_run_config, load_recipe
from codi.training.settings import Typed, read_as, read_yaml
from tiny_runs import run, tiny_settings


def both_ways(section: str, key: str, typed: str, folder: Path) -> list[RunConfig]:
    """The configuration with a setting typed on the command line, and written into a recipe."""
    name = f"{section}.{key}" if section else key
    values = "method: {name: codi}\nmodel: {base: x}\n"
    values += f"{section}:\n  {key}: {typed}\n" if section else f"{key}: {typed}\n"
    file = folder / "recipe.yaml"
    file.write_text(values, encoding="utf-8")
    return [load_recipe("word-problems", [f"{name}={typed}"]), load_recipe(str(file))]


WORDS = ["no", "No", "off", "on", "yes", "none", "y", "n", "true", "False"]


@pytest.mark.parametrize("typed", WORDS)
@pytest.mark.parametrize(
    "key",
    [
        "save_strategy",
        "eval_strategy",
        "hub_strategy",
        "lr_scheduler_type",
        "report_to",
        "run_name",
        "optim_args",
    ],
)
def test_a_word_of_the_trainer_stays_a_word(key: str, typed: str, tmp_path: Path) -> None:
    for config in both_ways("training", key, typed, tmp_path):
        found = config.training[key]
        assert (type(found), found) == (str, typed)


@pytest.mark.parametrize(
    "typed", [*WORDS, "007", "1_000", "0x1F", "12:30:45", "2024-01-02", "1e-3", "~", "=", "<<"]
)
@pytest.mark.parametrize(
    ("section", "key"), [("text", "answer_prompt"), ("data", "train"), ("data", "train_split")]
)
def test_a_text_is_what_was_typed(section: str, key: str, typed: str, tmp_path: Path) -> None:
    for config in both_ways(section, key, typed, tmp_path):
        found = getattr(getattr(config, section), key)
        assert (type(found), found) == (str, typed)


@pytest.mark.parametrize("typed", ["No", "Yes", "on", "007", "2024", "1.5", "2024-01-02"])
def test_a_column_may_have_any_name(typed: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"method: {{name: codi}}\nmodel: {{base: x}}\ndata: {{columns: {{answer: {typed}}}}}\n")
    for config in (
        load_recipe("word-problems", [f"data.columns.answer={typed}"]),
        load_recipe("word-problems", [f"data.columns={{answer: {typed}}}"]),
        load_recipe(str(file)),
    ):
        assert config.data.columns == {"answer": typed}
        assert type(config.data.columns["answer"]) is str


@pytest.mark.parametrize("typed", ["true", "True", "yes", "YES", "on", "false", "no", "Off"])
def test_what_is_true_or_false_takes_every_word_for_it(typed: str, tmp_path: Path) -> None:
    wanted = typed.lower() in ("true", "yes", "on")
    for config in both_ways("training", "bf16", typed, tmp_path):
        assert config.training["bf16"] is wanted
    for config in both_ways("data", "skip_bad_rows", typed, tmp_path):
        assert config.data.skip_bad_rows is wanted
    assert load_recipe("word-problems", [f"method.share_question={typed}"]).method["share_question"] is wanted
    assert load_recipe("word-problems", [f"model.projection={typed}"]).model.projection is wanted


@pytest.mark.parametrize(
    ("key", "typed", "wanted"),
    [
        ("learning_rate", "1e-3", 0.001), ("learning_rate", "3E-4", 0.0003), ("learning_rate", ".5", 0.5),
        ("max_steps", "1_000", 1000), ("max_steps", "1e3", 1000), ("seed", "010", 10), ("seed", "-1", -1),
        ("warmup_steps", "0.03", 0.03), ("eval_steps", "null", None), ("save_total_limit", "~", None),
        ("max_grad_norm", ".inf", float("inf")), ("logging_steps", "10", 10),
    ],
)  # fmt: skip
def test_numbers(key: str, typed: str, wanted: Any, tmp_path: Path) -> None:
    for config in both_ways("training", key, typed, tmp_path):
        found = config.training[key]
        assert found == wanted
        assert isinstance(found, int) is isinstance(wanted, int)


@pytest.mark.parametrize(
    "typed", ["12:30", "1:2:3", "no", "ten", "nan", "0x1F", "1.5", "2024-01-02", "[1]", "{a: 1}"]
)
def test_what_is_no_whole_number_is_refused(typed: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"max_steps.*must be a whole number"):
        both_ways("training", "max_steps", typed, tmp_path)
    with pytest.raises(RecipeError, match=r"latents.*must be a whole number"):
        load_recipe("word-problems", [f"method.latents={typed}"])


def test_lists_and_sections_inside_the_trainers_settings(tmp_path: Path) -> None:
    for config in both_ways("training", "report_to", "[tensorboard, no]", tmp_path):
        assert config.training["report_to"] == ["tensorboard", "no"]
    for config in both_ways("training", "lr_scheduler_kwargs", "{num_cycles: 2, min_lr: 1e-5}", tmp_path):
        assert config.training["lr_scheduler_kwargs"] == {"num_cycles": 2, "min_lr": 1e-5}


def test_nothing_typed(tmp_path: Path) -> None:
    config = load_recipe("word-problems", ["text.answer_separator=", "data.validation=", "tokenizer=x"])
    assert config.text.answer_separator == ""
    assert config.data.validation is None
    assert load_recipe("word-problems", ["data.validation=~", "data.max_tokens=null"]).data.validation is None
    assert load_recipe("word-problems", ["text.answer_separator=null"]).text.answer_separator == ""


def test_spaces_and_signs_on_the_command_line_are_meant() -> None:
    config = load_recipe(
        "word-problems",
        ["text.answer_prompt=Answer:", "text.question_suffix= (think)", "text.step_separator=\n",
         "text.answer_suffix='no '", 'text.step_suffix="\\n"'],
    )  # fmt: skip
    assert config.text.answer_prompt == "Answer:"
    assert config.text.question_suffix == " (think)"
    assert config.text.step_separator == "\n"
    assert config.text.answer_suffix == "no "
    assert config.text.step_suffix == "\n"
    assert load_recipe("word-problems", ["text.answer_prompt=# The answer is"]).text.answer_prompt[0] == "#"
    assert load_recipe("word-problems", ["text.answer_prompt=[Answer]"]).text.answer_prompt == "[Answer]"


def test_sections_of_a_bases_configuration_are_plain(tmp_path: Path) -> None:
    overrides = ["model.base_config.tie_word_embeddings=no", "model.base_config.initializer_range=2e-2",
                 "model.base_config.hidden_act=gelu", "model.base_config.hidden_size=096"]  # fmt: skip
    config = load_recipe("word-problems", overrides).model.base_config
    assert config is not None
    assert config["tie_word_embeddings"] is False
    assert config["initializer_range"] == 0.02
    assert (config["hidden_act"], config["hidden_size"]) == ("gelu", 96)


def test_a_whole_section_and_then_a_part_of_it() -> None:
    config = load_recipe("word-problems", ["model.lora={rank: 8, alpha: 1e1}", "model.lora.rank=4"])
    assert config.model.lora is not None
    assert (config.model.lora.rank, config.model.lora.alpha) == (4, 10.0)
    again = load_recipe("word-problems", ["model.lora=null", "model.lora.rank=4"])
    assert again.model.lora is not None
    assert again.model.lora.rank == 4


def test_quoted_text_and_quoted_numbers(tmp_path: Path) -> None:
    for config in both_ways("training", "save_strategy", '"no"', tmp_path):
        assert config.training["save_strategy"] == "no"
    for config in both_ways("data", "train", "'5'", tmp_path):
        assert config.data.train == "5"
    for config in both_ways("training", "learning_rate", '"3e-3"', tmp_path):
        assert config.training["learning_rate"] == 0.003
    with pytest.raises(RecipeError, match="in quotes: '\"5\"'"):
        both_ways("data", "train", "5", tmp_path)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("method: {name: codi}\nmodel: {base: x}\ntraining:\n  seed: 1\n  seed: 2\n")
    with pytest.raises(RecipeError, match=r"(?s)'seed' stands twice.*line 5"):
        load_recipe(str(file))


def test_values_from_python_may_have_been_read_by_another_yaml(tmp_path: Path) -> None:
    """PyYAML makes False of `no`: where only the word is a choice it is the word again."""
    values = yaml.safe_load("method: {name: codi}\nmodel: {base: x}\ntraining: {save_strategy: no, bf16: no}")
    config = build_run_config(values)
    assert config.training == {"save_strategy": "no", "bf16": False}


def test_run_yaml_gives_back_what_was_typed(tmp_path: Path) -> None:
    config = load_recipe(
        "word-problems",
        ["text.answer_prompt=No", "data.train=on", "data.train_split=007", "data.columns.answer=2024",
         "training.save_strategy=no", "training.run_name=12:30:45", "tokenizer=~x", "training.seed=010"],
    )  # fmt: skip
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config.as_dict(), sort_keys=False))
    assert load_recipe(str(file)) == config


def test_nothing_that_was_typed_stays_a_text_of_its_own_kind() -> None:
    """YAML writers refuse subclasses of str."""
    read = read_as(read_yaml("{a: [no, 1, x], b: {c: 2024-01-01}}", "the test"), Any)
    assert read == {"a": [False, 1, "x"], "b": {"c": "2024-01-01"}}
    assert type(read["b"]["c"]) is str
    assert type(read_as(Typed("x"), str)) is str


# --- what the Trainer refuses is said before data is read


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"report_to": "wandb"}, r"report_to names 'wandb'.*pip install wandb.*report_to=none"),
        ({"report_to": ["tensorboard", "mlflow"]}, r"report_to names 'mlflow'"),
        ({"report_to": "wandbb"}, r"report_to names 'wandbb'.*not supported"),
        ({"lr_scheduler_type": "off"}, "off is not a valid SchedulerType"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "min_lr"),
        ({"lr_scheduler_kwargs": {"cycles": 2}, "lr_scheduler_type": "cosine"}, "cycles"),
        ({"optim": "adamw_bnb_8bit"}, "(?i)bitsandbytes"),
        ({"optim": "adam"}, "adam is not a valid OptimizerNames"),
        ({"deepspeed": "ds.json"}, "(?i)deepspeed"),
        ({"save_strategy": "off"}, "off is not a valid SaveStrategy"),
        ({"tf32": True}, "(?i)tf32"),
        ({"gradient_checkpointing": True}, "Activation checkpointing"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing|config"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_trainer_refuses_is_said_before_data_is_read(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    values = tiny_settings(tmp_path)
    values["data"]["train"] = str(tmp_path / "never-read.jsonl")
    values["training"] |= settings
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    result = CliRunner().invoke(app, ["train", str(recipe), "--output", str(tmp_path / "run")])
    assert result.exit_code == 2, repr(result.exception)
    assert "Traceback" not in result.output
    assert "never-read" not in result.stderr
    assert re.search(said, result.stderr.replace("\n", " ")), result.stderr
    assert not (tmp_path / "run").exists()


def test_no_as_typed_trains_without_checkpoints(tmp_path: Path) -> None:
    values = tiny_settings(tmp_path, rows=8, max_steps=2)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    result = CliRunner().invoke(
        app, ["train", str(recipe), "training.save_strategy=no", "--output", str(tmp_path / "run")]
    )
    assert result.exit_code == 0, result.output
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_rehearsal_leaves_the_run_as_it_would_have_been(tmp_path: Path) -> None:
    """Its one weight and its own seed are drawn and dropped before the run's."""
    from codi.training import run as run_module
    from tiny_runs import same_weights

    settings = tiny_settings(tmp_path, rows=8, max_steps=2, dropout=0.2)
    run(settings, tmp_path / "one")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_module, "rehearse", lambda *_, **__: None)
        run(settings, tmp_path / "other")
    assert same_weights(tmp_path / "one", tmp_path / "other")
