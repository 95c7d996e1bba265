"""`codi probe`: the table, the JSON, the figures, and one HTML file that needs nothing from outside."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from answered_problems import ending_in
from codi.cli import app
from codi.data.sources import load_examples, write_jsonl
from codi.generation.latent_reasoner import LatentReasoner
from tiny_checkpoints import tiny_reasoner

QUESTION = "Mia collects apples. On Monday she finds 2 more. She starts with 7. How many are there now?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe") / "codi"
    tiny_reasoner("codi", latents=3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """Problems of which the untrained model answers some: its own numbers are the gold answers."""
    reasoner = LatentReasoner.from_pretrained(checkpoint)
    examples, _ = load_examples("word-problems?count=80", split="test")
    answers = reasoner.answer([example.question for example in examples], max_new_tokens=32)
    kept = []
    for example, answer in zip(examples, answers, strict=True):
        numbers = re.findall(r"\d+", answer.text)
        kept.append(ending_in(example, numbers[-1]) if numbers else example)
    file = tmp_path_factory.mktemp("problems") / "mine.jsonl"
    write_jsonl(kept, file)
    return file


def probe(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["probe", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["probe", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def report(checkpoint: Path, problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that one run writes."""
    folder = tmp_path_factory.mktemp("report")
    probe(
        checkpoint, "--question", QUESTION, "--benchmark", problems, "--pairs", 3, "--output",
        folder / "report.html", "--json", folder / "report.json", "--figures", folder / "figures",
    )  # fmt: skip
    return folder


def test_question_in_the_terminal(checkpoint: Path) -> None:
    shown = probe(checkpoint, "--question", QUESTION)
    answer = LatentReasoner.from_pretrained(checkpoint).answer([QUESTION])[0]
    for name in ("z1", "z2", "z3", "decodes to", "attends to", "answer if silenced"):
        assert name in shown
    assert f"{answer.passes} passes" in shown


def test_unknown_words_are_told_once(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The question is answered several times, to be timed; it is one question."""
    shown = probe(checkpoint, "--question", "Mia has 3 zebras . How many zebras ?")
    assert (shown + caplog.text).count("this model's tokenizer does not know") == 1


def test_json_agrees_with_the_model(report: Path, checkpoint: Path) -> None:
    values = json.loads((report / "report.json").read_text())
    question: dict[str, Any] = values["question"]
    reasoner = LatentReasoner.from_pretrained(checkpoint)
    decoded = reasoner.decode_thoughts(QUESTION)
    for thought, expected in zip(question["thoughts"], decoded, strict=True):
        assert [token["token"] for token in thought["tokens"]] == [name for name, _ in expected]
        # The lens of the last layer is the decoded thought.
        assert thought["lens"][-1][0][0] == expected[0][0]
    assert question["value"] == reasoner.answer([QUESTION])[0].value
    assert len(question["attention"]) == len(question["rows"]) == 5
    assert all(len(row) == len(question["keys"]) for row in question["attention"])
    assert all(sum(row) == pytest.approx(1, abs=1e-4) for row in question["attention"])
    benchmark = values["benchmark"]
    assert benchmark["n"] == 80
    assert benchmark["interventions"]["rows"][0]["name"] == "same"
    assert benchmark["interventions"]["rows"][0]["difference"] == 0
    assert {row["results"] for row in benchmark["table3"]["rows"]} <= {1, 2, 3, 4}
    assert len(benchmark["shift"]["layers"]) == 2
    assert benchmark["shortcuts"]["n"] == 80 - sum(benchmark["shortcuts"]["left_out"].values())
    assert benchmark["shortcuts"]["verdict"]
    assert values["made_from"]["latents"] == "3, as trained"


def test_figures_are_drawn(report: Path) -> None:
    names = {file.stem for file in (report / "figures").iterdir()}
    assert {"attention", "logit-lens", "interventions", "shortcuts", "cot-shift"} <= names
    for file in (report / "figures").iterdir():
        start = file.read_bytes()[:5]
        assert start.startswith(b"\x89PNG" if file.suffix == ".png" else b"%PDF-")


def test_html_stands_alone(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)
    assert not re.search(r"url\(\s*['\"]?http", page)
    assert page.count("<svg") >= 4
    assert QUESTION in page
    verdict = json.loads((report / "report.json").read_text())["benchmark"]["shortcuts"]["verdict"]
    for sentence in verdict:
        assert sentence in html.unescape(page)


def test_html_escapes_what_it_is_given(checkpoint: Path, tmp_path: Path) -> None:
    probe(checkpoint, "--question", "<script>alert(1)</script> How many?", "--output", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_html_in_a_browser_without_network(report: Path, checkpoint: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(offline=True, viewport={"width": 360, "height": 800})
        page = context.new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((report / "report.html").as_uri())
        value = LatentReasoner.from_pretrained(checkpoint).answer([QUESTION])[0].value
        assert page.locator("#answer").inner_text() == (value or "no answer")
        assert page.locator("#interventions tbody tr").count() > 10
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith("file:")] == []


def test_tuned_lens(checkpoint: Path, problems: Path, tmp_path: Path) -> None:
    lens = tmp_path / "lens.safetensors"
    shown = probe(checkpoint, "--benchmark", problems, "--part", "table3", "--train-lens", lens)
    assert "tuned lens" in shown
    assert "measured on the other 40" in shown
    probe(checkpoint, "--question", QUESTION, "--lens", lens, "--output", tmp_path / "r.html")
    assert "affine translator" in (tmp_path / "r.html").read_text()
    from codi.modeling.configuration import ModelConfig, TextFormat
    from codi.modeling.model import ThoughtModel
    from tiny_checkpoints import base_config

    reasoner = LatentReasoner.from_pretrained(checkpoint)
    rows = reasoner.model.bot_id
    stranger = ThoughtModel(ModelConfig(base_config={**base_config(rows, 1), "n_embd": 16}))
    LatentReasoner(stranger, reasoner.method, reasoner.tokenizer, TextFormat()).save_pretrained(
        tmp_path / "stranger"
    )
    assert "lens" in refused(tmp_path / "stranger", "--question", QUESTION, "--lens", lens)


def test_a_lens_is_not_measured_on_what_it_was_trained_on(
    checkpoint: Path, problems: Path, tmp_path: Path
) -> None:
    lens, found = tmp_path / "lens.safetensors", tmp_path / "found.json"
    probe(checkpoint, "--benchmark", problems, "--count", 20, "--part", "shift", "--train-lens", lens,
          "--json", found)  # fmt: skip
    first = json.loads(found.read_text())["benchmark"]
    assert (first["n"], first["lens"]["questions"]) == (10, 10)
    shown = probe(checkpoint, "--benchmark", problems, "--count", 20, "--part", "shift", "--lens", lens,
                  "--json", found, "--overwrite")  # fmt: skip
    again = json.loads(found.read_text())["benchmark"]
    assert again["n"] == 20  # the other parts do not depend on the lens
    assert again["lens"] == first["lens"]
    assert again["rows_left_out"]["lens"] == {"the lens was trained on them": 10}
    assert "problems left out of lens: 10: the lens was trained on them" in shown
    nothing = refused(checkpoint, "--benchmark", problems, "--count", 10, "--part", "shift", "--lens", lens)
    assert "trained on all of these 10 problems" in nothing
    assert "the first 10 of 20 questions" in nothing


def test_latents_count_in_every_part(checkpoint: Path, problems: Path, tmp_path: Path) -> None:
    found = {}
    for latents in (2, 3):
        file = tmp_path / f"{latents}.json"
        probe(checkpoint, "--benchmark", problems, "--count", 40, "--latents", latents, "--pairs", 2,
              "--part", "table3", "--part", "interventions", "--part", "shift", "--part", "patching",
              "--json", file)  # fmt: skip
        values = json.loads(file.read_text())
        found[latents] = values["benchmark"]
        assert values["benchmark"]["latents"] == latents
    assert values["made_from"]["latents"] == "3, as trained"
    names = [[row["name"] for row in found[latents]["interventions"]["rows"]] for latents in (2, 3)]
    assert "zero z3" in names[1]
    assert "zero z3" not in names[0]
    assert "3 latents" in names[0]
    assert found[2]["shift"] != found[3]["shift"]
    for latents in (2, 3):
        thought = set(range(1, latents + 1))
        probed = tmp_path / f"{latents}-probes.json"
        probe(checkpoint, "--benchmark", "in_domain", "--count", 160, "--latents", latents,
              "--part", "probes", "--json", probed)  # fmt: skip
        assert {one["thought"] for one in json.loads(probed.read_text())["benchmark"]["probes"]} == thought
        for table in found[latents]["patching"] or []:  # where the untrained model solves both of a pair
            assert {cell["latent"] for cell in table["cells"]} == thought
    lens = tmp_path / "lens.safetensors"
    shown = probe(checkpoint, "--benchmark", problems, "--count", 10, "--part", "shift", "--latents", 2,
                  "--train-lens", lens, "--json", tmp_path / "lens.json")  # fmt: skip
    assert "measured on the other 5" in shown
    assert json.loads((tmp_path / "lens.json").read_text())["benchmark"]["lens"]["thoughts"] == 2


def test_gsm8ks_own_steps(checkpoint: Path, tmp_path: Path) -> None:
    """Annotations in sentences, several in one, sentences that say it themselves, and rows without any."""
    reasoner = LatentReasoner.from_pretrained(checkpoint)
    rows = []
    forms = [
        ["He sold {a}/2 = <<{a}/2={h}>>{h} clips.", "In all {h}{d:+} = <<{h}{d:+}={g}>>{g}."],
        ["That is {a} ÷ 2 = {h} and {a} + {h} = {s} in all, and then: {s} {e:+} = {g}."],
        ["<<{a}/2={h}>>", "<<{h}{d:+}={g}>>"],
        ["He sells half of them.", "Then the rest."],
        ["<<{a}/2=x>>", "<<{a}+{h}={s}>>"],
        [],
        ["{h} {d:+} = {g} in all."],
        ["<<{a}/2={h}>>", "<<{h}+{a}={s}>>"],
    ]
    for number, form in enumerate(forms * 2):
        a = 4 + 2 * number
        question = f"Mia has {a} apples . On Monday she finds half of it more . How many apples ?"
        text = reasoner.answer([question], max_new_tokens=32)[0].text
        gold = (re.findall(r"\d+", text) or ["3"])[-1]
        half, all_of_it, g = a // 2, a + a // 2, int(gold)
        values = {"a": a, "h": half, "s": all_of_it, "g": g, "d": g - half, "e": g - all_of_it}
        rows.append({"question": question, "steps": [s.format(**values) for s in form], "answer": gold})
    rows.append({"question": "Mia has 3 apples . " * 60, "steps": ["<<1+1=2>>"], "answer": "2"})
    file, found = tmp_path / "raw.jsonl", tmp_path / "found.json"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = [argument for part in ("table3", "patching", "probes") for argument in ("--part", part)]
    page_file = tmp_path / "r.html"
    shown = probe(checkpoint, "--benchmark", file, *parts, "--json", found, "--output", page_file)
    benchmark = json.loads(found.read_text())["benchmark"]
    assert benchmark["n"] == 16
    assert benchmark["rows_left_out"]["all"] == {"too long for the model": 1}
    reasons = {
        "no step says `... = number`": 2,
        "an annotation <<...>> without a number as its result": 2,
        "no steps": 2,
        "no intermediate result: one equation gives the answer": 2,
        "the last equation's result is not the answer": 2,
    }
    assert benchmark["rows_left_out"]["table3"] == reasons
    by_results = {row["results"]: row["n"] for row in benchmark["table3"]["rows"]}
    assert set(by_results) <= {1, 2}
    page = " ".join(html.unescape(page_file.read_text()).split())
    for reason, count in reasons.items():
        assert f"problems left out of table3: {count}: {reason}" in shown
        assert f"{count} {reason}" in page
    file.write_text("".join(json.dumps(row) + "\n" for row in rows if row["steps"] == forms[3]))
    message = refused(checkpoint, "--benchmark", file, "--part", "table3")
    assert "none of these 2 problems has one: 2 no step says `... = number`" in message
    file.write_text(json.dumps({"question": "Mia has 3 apples . " * 60, "answer": "2"}) + "\n")
    assert "No question of this set can be asked (1 too long for the model)" in refused(
        checkpoint, "--benchmark", file
    )


def test_shortcuts_of_a_model_without_thoughts(problems: Path, tmp_path: Path) -> None:
    tiny_reasoner("no-cot-sft").save_pretrained(tmp_path / "plain")
    shown = probe(tmp_path / "plain", "--benchmark", problems, "--count", 4, "--part", "shortcuts")
    assert "does not apply: 0 latents: a no-cot-sft model puts nothing between question and answer" in shown
    assert "There are no thoughts to take away" in shown
    message = refused(tmp_path / "plain", "--benchmark", problems, "--part", "shortcuts", "--latents", 2)
    assert "a no-cot-sft model has none" in message
    assert "--part shortcuts" in refused(tmp_path / "plain", "--benchmark", problems)


def test_any_script_any_length(checkpoint: Path, tmp_path: Path) -> None:
    question = "A $5 book and a $$7 pen _ ^ \\frac : 三个苹果 كتاب हिन्दी \U0001f600 " + "apples and 3 " * 20
    probe(checkpoint, "--question", question, "--output", tmp_path / "r.html", "--figures", tmp_path / "f")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "三个苹果 كتاب हिन्दी" in page
    assert (tmp_path / "f" / "attention.png").exists()


def test_bad_input(checkpoint: Path, problems: Path, tmp_path: Path) -> None:
    assert "Give something to look at" in refused(checkpoint)
    assert "is empty" in refused(checkpoint, "--question", " ")
    long = "Mia has 3 apples . " * 60
    assert re.search(r"has \d+ tokens.*at most 160", refused(checkpoint, "--question", long))
    assert "no layer 9" in refused(checkpoint, "--question", QUESTION, "--layer", 9)
    assert "Did you mean 'patching'" in refused(checkpoint, "--benchmark", problems, "--part", "patchin")
    assert "cannot be patched" in refused(
        checkpoint, "--benchmark", problems, "--part", "patching", "--patch", "weights"
    )
    assert "--train-lens needs a --benchmark" in refused(
        checkpoint, "--question", QUESTION, "--train-lens", tmp_path / "x"
    )
    assert "0 latents" in refused(checkpoint, "--question", QUESTION, "--latents", 0)
    plain = tmp_path / "plain"
    tiny_reasoner("no-cot-sft").save_pretrained(plain)
    message = refused(plain, "--question", QUESTION)
    assert "no continuous thoughts to look at" in message
    assert "codi eval" in message


def test_set_without_steps(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "bare.jsonl"
    rows = [{"question": f"Mia has {n} apples. How many?", "answer": str(n)} for n in range(2, 9)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "none of these problems has steps" in refused(checkpoint, "--benchmark", file, "--part", "table3")
    shown = probe(checkpoint, "--benchmark", file)  # the rest is measured, and what is left out is said
    assert "left out: table3" in shown
    assert "Interventions (7 problems" in shown


def test_nothing_is_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    there = tmp_path / "report.html"
    there.write_text("mine")
    assert "already exists" in refused(checkpoint, "--question", QUESTION, "--output", there)
    assert there.read_text() == "mine"


def test_bench_probe(checkpoint: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["bench", "probe", str(checkpoint), "--questions", "2", "--problems", "4", "--output",
              str(tmp_path / "b.json")],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    values = json.loads((tmp_path / "b.json").read_text())
    assert set(values["median_ms"]) == {"answer", "probe", "probe_with_attention"}
    assert values["seconds_to_decode"] > 0
