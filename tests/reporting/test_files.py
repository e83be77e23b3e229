"""Reports as files: figures that open, a page that is inert, and messages for what is not there."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hired_eval.cli.show import main as show
from hired_eval.records.store import Store
from hired_eval.reporting import html
from hired_eval.reporting.__main__ import main
from hired_eval.reporting.overlay import LINE, overlay
from hired_eval.reporting.spec import RowSpec
from hired_eval.reporting.write import reports, write
from tests.reporting import synthetic

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Tags with their attributes, checked to be nested rightly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("name", ["figure2", "figure3", "figure5", "figure6", "baselines"])
def test_figures_are_drawn_as_png_and_pdf(everything: Path, name: str) -> None:
    with Image.open(everything / f"{name}.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 200
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert (everything / f"{name}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", ["table2", "table3", "table5", "baselines"])
def test_tables_are_written_in_every_format(everything: Path, name: str) -> None:
    for suffix in ("md", "tex", "csv", "html"):
        assert (everything / f"{name}.{suffix}").read_text().strip()


def test_one_budget_gives_the_table_of_baselines_and_says_why_there_is_no_curve(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, budget in (("full", None), ("hired", 0.2), ("random", 0.2)):
        synthetic.write_run(runs, method, "docvqa", budget=budget)
    main(["baselines", "--runs-dir", str(runs), "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "| Random 20 %" in said
    assert said.splitlines()[-1].startswith("no figure: the curve needs a method at two budgets")
    assert sorted(f.suffix for f in tmp_path.glob("baselines.*")) == [".csv", ".html", ".md", ".tex"]


def test_a_reader_who_leaves_early_does_no_harm(runs: Path, tmp_path: Path) -> None:
    """As in `hired-eval report table3 | head -1`; every file is written all the same."""
    synthetic.write_run(runs, "full", "docvqa")
    command = [sys.executable, "-m", "hired_eval.reporting", "table3", "html"]
    command += ["--runs-dir", str(runs), "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
    assert "Error" not in said
    assert process.returncode == 0
    assert (tmp_path / "report.html").exists()


def test_the_page_is_inert_and_needs_nothing_else(everything: Path) -> None:
    source = (everything / "report.html").read_text()
    page = Page(source)
    assert [tag for tag, _ in page.tags].count("script") == 1
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href"):
            target = attributes.get(name)
            assert target is None or target.startswith(("data:", "#")), target
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for part, source_of in (("style-src", html.STYLE), ("script-src", html.SCRIPT)):
        assert f"{part} '{html._hash(source_of)}'" in policy
    assert "alert(1)" in "".join(page.words)
    assert "\x07" not in source


def test_the_page_can_be_used_by_keyboard_and_by_ear(everything: Path) -> None:
    page = Page((everything / "report.html").read_text())
    images = [a for t, a in page.tags if t == "img"]
    assert len(images) >= 5 + 3 * 2
    assert all(a.get("alt") for a in images)
    heads = [a for t, a in page.tags if t == "th" and a.get("scope") == "col"]
    buttons = [a for t, a in page.tags if t == "button"]
    assert len(heads) == len(buttons) > 20
    anchors = {a["href"] for t, a in page.tags if t == "a"}
    sections = {f"#{a['id']}" for t, a in page.tags if t == "section"}
    assert anchors == sections
    assert {"#table-3-accuracy", "#gallery", "#runs-that-failed"} <= sections
    assert "prefers-color-scheme: dark" in html.STYLE


def test_a_report_without_runs_says_how_to_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in reports():
        arguments = [name, "--runs-dir", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["x"])
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert re.match(
            r"error: no complete run for \w+ is there yet; start with python -m ", str(end.value.code)
        )
    assert "figure6: no complete run" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_one_clear_line(table3_store: Store) -> None:
    with pytest.raises(SystemExit, match=r"error: cannot write /dev/null/x"):
        main(["table3", "--runs-dir", str(table3_store.runs), "--out", "/dev/null/x"])


@pytest.mark.parametrize("content", ['{"format": 1, "sta', '{"format": 1}'])
def test_a_damaged_record_is_named_and_the_others_are_reported(
    runs: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    synthetic.write_run(runs, "full", "docvqa")
    (runs / "other-run").mkdir()
    (runs / "other-run" / "record.json").write_text(content)
    main(["table3", "--runs-dir", str(runs), "--out", str(runs / "out")])
    printed = capsys.readouterr().out
    assert re.search(r"left out: .*other-run/record\.json is (damaged|not a record)", printed)
    assert "| Full" in printed


def test_damaged_samples_are_one_clear_line(runs: Path) -> None:
    record = synthetic.write_run(runs, "full", "docvqa")
    synthetic.write_run(runs, "hired", "docvqa")
    (runs / record.run / "samples.parquet").write_bytes(b"PAR1")
    with pytest.raises(SystemExit, match=r"error: .*samples\.parquet cannot be read"):
        main(["table3", "--runs-dir", str(runs), "--out", str(runs / "out")])


def test_the_overlay_marks_kept_tokens_and_fades_the_others() -> None:
    partitions = np.full((3, 8, 8, 3), (10, 60, 200), dtype=np.uint8)
    kept = np.array([[0, 0], [2, 3], [1, -1]])
    drawn = np.asarray(overlay(partitions, (1, 2), kept, side=2, scale=2))
    assert drawn.shape == (16, 16 + 2 * (16 + 6) + 12, 3)
    full_image, first = drawn[:, :16], drawn[:, 16 + 18 : 16 + 18 + 16]
    second = drawn[:, 16 + 18 + 22 : 16 + 18 + 38]
    assert tuple(full_image[3, 3]) == (10, 60, 200)
    assert tuple(full_image[0, 0]) == LINE
    assert tuple(second[12, 12]) == (10, 60, 200)
    assert first.min() > 200, "a token made of many has no place of its own"
    assert full_image[12, 12].min() > 200
    single = overlay(partitions[:1], (0, 0), kept, side=2)
    assert single.size == (8, 8)


def test_show_writes_the_overlay_and_prints_the_answer(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, out = tmp_path / "a.png", tmp_path / "overlay.png"
    synthetic.picture(120, 80, 0).save(picture)
    words = [str(picture), f"model.path={tiny_checkpoint}", "device=cpu", "--out", str(out)]
    show([*words, "budget=0.2", "--question", "what?", "method.alpha=0.3"])
    printed = capsys.readouterr().out
    assert re.search(r"answer: .*\nvisual tokens: \d+ of \d+, budget \d+\noverlay: ", printed)
    with Image.open(out) as drawn:
        assert drawn.width > drawn.height > 200
    show([*words, "method=prumerge"])
    assert "of them made of many" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/no/picture.png"], r"/no/picture\.png cannot be opened: No such file"),
        ([__file__], "is not a picture that Pillow can read"),
        (["{picture}", "--question", "What", "is", "it?"], r'put it in quotes: --question "What is it\?"'),
        (["{picture}", "alpha"], "'alpha' is not an option; write NAME=VALUE"),
        (["{picture}", "alpha=0.3"], "there is no option 'alpha'; did you mean method.alpha"),
        (["{picture}", "method=hird"], "there is no method 'hird'; did you mean hired"),
        (["{picture}", "method=full", "budget=0.2"], "Full has no token budget of its own"),
        (["{picture}", "model=minni"], "there is no model 'minni'; did you mean mini"),
        (["{picture}", "budget=2"], "budget must be above 0 and at most 1, got 2"),
        (["{picture}", "--budget", "0.2"], "--budget: options have no dashes here; write budget=0.2"),
    ],
)
def test_mistakes_in_show_are_one_clear_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    picture = tmp_path / "a.png"
    synthetic.picture(20, 20, 0).save(picture)
    with pytest.raises(SystemExit, match=message):
        show([argument.replace("{picture}", str(picture)) for argument in arguments])


def test_the_page_has_a_summary_on_top_and_marks_right_and_wrong_answers(runs: Path) -> None:
    synthetic.write_gallery(runs, scores=(1.0, 0.25))
    synthetic.write_run(runs, "full", "docvqa", accuracy=0.5)
    synthetic.write_run(runs, "hired", "docvqa", accuracy=0.5, finished="2026-02-03")
    list(write(Store(runs), ["html"], runs / "out"))
    page = (runs / "out" / "report.html").read_text()
    head = page[page.index("<header>") : page.index("</header>")]
    assert "mini, bundled data: 2 runs of 2 methods on DocVQA, 2026-01-01 to 2026-02-03." in head
    verdicts = re.findall(r"<strong>Full</strong>.*?</span>(.*?)</figcaption>", page)
    assert verdicts == [' <span class="better">\u2713 right</span>', ' <span class="note">counts 0.25</span>']
    assert ".scroll[data-more]::after" in page


def test_the_page_says_what_differences_are_to_marks_the_best_and_says_once_what_tables_share(
    runs: Path,
) -> None:
    for method, accuracy in (("full", 0.9), ("hired", 0.8), ("random", 0.5)):
        synthetic.write_run(runs, method, "docvqa", accuracy=accuracy)
    store = Store(runs)
    list(write(store, ["html", "baselines"], runs / "out", against=RowSpec(method="hired")))
    page = (runs / "out" / "baselines.html").read_text()
    assert set(re.findall(r"(?<=>)vs (.+?) [+-]", page)) == {"HiRED at the same budget"}
    best = max(store.score([r]).value for r in store.accuracy() if not r.method.target.endswith("Full"))
    assert re.findall(r"<strong>([\d.]+)</strong>", page) == [f"{best:.1f}"]
    assert page.count(">HiRED and its baselines</h") == 1
    report = (runs / "out" / "report.html").read_text()
    assert report.count("Bold: the best of a column") == 1
    assert report.index("How to read the tables</h2>") < report.index("Bold: the best of a column")
    assert "Table 3: accuracy</h2>" in report
