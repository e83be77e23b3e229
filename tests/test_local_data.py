"""Which files of a folder are the documents asked for: exactly, once, all of them, or a refusal."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from datasets import Dataset

from hired_eval.errors import UserError
from hired_eval.lmms.local_data import Wanted, find_data_source, find_local_files, known_data_sets, wanted

DOCVQA = Wanted("lmms-lab-encoder/DocVQA", "DocVQA", "validation")
INFOVQA = Wanted("lmms-lab-encoder/DocVQA", "InfographicVQA", "validation")
TEXTVQA = Wanted("lmms-lab-encoder/textvqa", None, "validation")
SCIENCEQA = Wanted("lmms-lab-encoder/ScienceQA", "ScienceQA-IMG", "test")
POPE = Wanted("lmms-lab-encoder/POPE", None, "test")
POPE_ADVERSARIAL = Wanted("lmms-lab-encoder/POPE", "Full", "adversarial")
LITE = Wanted("lmms-lab-encoder/LMMs-Eval-Lite", "docvqa_val", "lite")
CHARTQA = Wanted("lmms-lab-encoder/ChartQA", None, "test")
ONE = "validation-00000-of-00001.parquet"
CACHED = "datasets--lmms-lab--DocVQA"
Files = Callable[..., Path]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Puts parquet files, each of other rows, below a folder; a link where a name holds ' -> '."""

    def put(*names: str) -> Path:
        for number, name in enumerate(names):
            name, _, target = name.partition(" -> ")
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if target:
                file.symlink_to(target)
                continue
            with file.open("wb") as stream:
                Dataset.from_dict({"row": list(range(number + 2))}).to_parquet(stream)
        return tmp_path

    return put


def chosen(folder: Path, asked: Wanted, root: Path) -> list[str]:
    return [str(file.relative_to(root)) for file in find_local_files(folder, asked)]


def refusal(folder: Path, asked: Wanted) -> str:
    with pytest.raises(UserError) as refused:
        find_local_files(folder, asked)
    assert "\n" not in str(refused.value)
    return str(refused.value)


BOTH = (f"DocVQA/DocVQA/{ONE}", f"DocVQA/InfographicVQA/{ONE}")
SNAPSHOTS = (f"{CACHED}/snapshots/aa/DocVQA/{ONE}", f"{CACHED}/snapshots/bb/DocVQA/{ONE}")


@pytest.mark.parametrize(
    ("there", "path", "asked", "expected"),
    [
        # a folder of one's own
        (["validation-0.parquet"], "", DOCVQA, None),
        ([ONE], "", TEXTVQA, None),
        (["validation.parquet"], "", INFOVQA, None),
        (["validation-0.parquet", "validation-1.parquet", "train-0.parquet"], "", DOCVQA, [0, 1]),
        ([f"data/{ONE}"], "", TEXTVQA, None),
        # the repository of two data sets, one of them of its name
        (BOTH, "DocVQA", DOCVQA, [0]),
        (BOTH, "DocVQA", INFOVQA, [1]),
        (BOTH, "", DOCVQA, [0]),
        (BOTH, "", INFOVQA, [1]),
        (BOTH, "DocVQA/InfographicVQA", INFOVQA, [1]),
        (BOTH, "DocVQA/DocVQA", DOCVQA, [0]),
        ([f"lmms-lab/{name}" for name in BOTH], "", INFOVQA, [1]),
        ([f"clone/{name.partition('/')[2]}" for name in BOTH], "clone", INFOVQA, [1]),
        ([f"DocVQA/{ONE}", f"InfographicVQA/{ONE}"], "", INFOVQA, [1]),
        ([f"docvqa/{ONE}", f"infographics/{ONE}"], "", DOCVQA, [0]),
        # several data sets and configs
        ([f"TextVQA/data/{ONE}", f"DocVQA/DocVQA/{ONE}"], "", TEXTVQA, [0]),
        (["ScienceQA-FULL/test-0.parquet", "ScienceQA-IMG/test-0.parquet"], "", SCIENCEQA, [1]),
        (["POPE/data/test-0.parquet", "POPE/Full/adversarial-0.parquet"], "", POPE, [0]),
        (["POPE/data/test-0.parquet", "POPE/Full/adversarial-0.parquet"], "POPE", POPE_ADVERSARIAL, [1]),
        (["POPE/data/test-0.parquet"], "POPE/data", POPE, [0]),
        (["LMMs-Eval-Lite/docvqa_val/lite-0.parquet", f"DocVQA/{ONE}"], "", LITE, [0]),
        # the hub's cache, by main; a download into a folder; the hub's own conversion
        ((*SNAPSHOTS, f"{CACHED}/refs/main"), "", DOCVQA, None),
        (SNAPSHOTS[:1], CACHED, DOCVQA, [0]),
        (SNAPSHOTS, f"{CACHED}/snapshots/bb", DOCVQA, [1]),
        ([f"hub/{SNAPSHOTS[0]}", "hub/datasets--Some--DocVQA/snapshots/c/x.parquet"], "", DOCVQA, [0]),
        (["test/0000.parquet", "test/0001.parquet", "train/0000.parquet"], "", CHARTQA, [0, 1]),
        (["default/test/0000.parquet", "default/partial-train/0000.parquet"], "", CHARTQA, [0]),
        (["DocVQA/validation/0000.parquet"], "", DOCVQA, [0]),
        (["validation/0000.parquet"], "validation", DOCVQA, [0]),
        (["data/test/part-00000-x.parquet", "data/test/part-00001-y.parquet"], "", CHARTQA, [0, 1]),
        # names of files
        (["test-00001-of-00002.parquet", "test-00000-of-00002.parquet"], "", CHARTQA, [1, 0]),
        ([f"test-0000{i}-of-00002-0123456789abcdef.parquet" for i in range(2)], "", CHARTQA, [0, 1]),
        (["test-0.PARQUET"], "", CHARTQA, [0]),
        (["test-dev-00000-of-00001.parquet", "test-00000-of-00001.parquet"], "", CHARTQA, [1]),
        (["validation_matched-0.parquet", "validation-0.parquet"], "", DOCVQA, [1]),
        (["test-9.parquet", "test-10.parquet"], "", CHARTQA, [0, 1]),
        # what else lies about
        ([ONE, f"backup/{ONE}", "old/validation-0.parquet"], "", DOCVQA, [0]),
        ([ONE, "validation-00000-of-00001 (copy).parquet", f"._{ONE}"], "", DOCVQA, [0]),
        ([ONE, f".ipynb_checkpoints/{ONE}", f".cache/huggingface/download/{ONE}"], "", DOCVQA, [0]),
        ([f"DocVQA/{ONE}", f"DocVQA/__MACOSX/{ONE}"], "", DOCVQA, [0]),
        # names that libraries read as patterns
        ([f"br[0]* a#b%20=c,ü?'/{ONE}"], "br[0]* a#b%20=c,ü?'", DOCVQA, [0]),
        # links
        ([f"store/{ONE}", f"DocVQA/{ONE} -> ../store/{ONE}"], "DocVQA", DOCVQA, [1]),
        ([f"DocVQA/DocVQA/{ONE}", "now -> DocVQA"], "now", DOCVQA, ["now/DocVQA/" + ONE]),
    ],
)  # fmt: skip
def test_the_documents_asked_for_are_found(
    files: Files, there: list[str], path: str, asked: Wanted, expected: list[int | str] | None
) -> None:
    there = list(there)
    if there[-1].endswith("refs/main"):
        root = files(*there[:-1])
        (root / there[-1]).parent.mkdir()
        (root / there[-1]).write_text("bb\n")
        expected = [1]
    else:
        root = files(*there)
    names = [there[e].partition(" -> ")[0] if isinstance(e, int) else e for e in expected or [0]]
    assert chosen(root / path, asked, root) == names


@pytest.mark.parametrize(
    ("there", "path", "asked", "said"),
    [
        # another data set, or one that cannot be told
        (BOTH, "DocVQA/DocVQA", INFOVQA, "is the config DocVQA of DocVQA by its name"),
        ([f"DocVQA/{ONE}"], "DocVQA", INFOVQA, "is the config DocVQA of DocVQA by its name"),
        ([f"DocVQA/{ONE}"], "", INFOVQA, "is the config DocVQA of DocVQA by its name"),
        (BOTH, "DocVQA/InfographicVQA", DOCVQA, "is the config InfographicVQA of DocVQA by its name"),
        (BOTH, "DocVQA", TEXTVQA, "is the data set DocVQA by its name"),
        ([f"DocVQA/{ONE}"], "DocVQA", TEXTVQA, "found: ./ with validation"),
        ([f"docs/{ONE}", f"infographics/{ONE}"], "", DOCVQA, "found: docs/ with validation; inf"),
        ([f"docvqa/{ONE}", f"infographics/{ONE}"], "", INFOVQA, "docvqa is the config DocVQA of DocVQA"),
        (["ScienceQA/test-0.parquet"], "", SCIENCEQA, "one of the configs ScienceQA-FULL, ScienceQA-IMG of"),
        (["ScienceQA-FULL/test-0.parquet"], "ScienceQA-FULL", SCIENCEQA, "is the config ScienceQA-FULL"),
        (["POPE/Full/test-0.parquet"], "POPE/Full", POPE, "is the config Full of POPE"),
        ([f"DocVQA/{ONE}"], "DocVQA", LITE, "is the data set DocVQA"),
        ([f"datasets--Some--DocVQA/snapshots/c/{ONE}"], "", DOCVQA, "found: datasets--Some--DocVQA"),
        ([f"datasets--Some--DocVQA/snapshots/c/{ONE}"], "datasets--Some--DocVQA", DOCVQA, "is Some/DocVQA"),
        ([f"a/DocVQA/{ONE}", f"b/DocVQA/{ONE}"], "", DOCVQA, "holds DocVQA more than once"),
        ([ONE, f"DocVQA/{ONE}"], "", DOCVQA, "holds a split validation of its own, and one in"),
        ([f"DocVQA/DocVQA/{ONE}", "InfographicVQA -> DocVQA/DocVQA"], "InfographicVQA", INFOVQA, "is the c"),
        # no such split
        (["val-0.parquet", "test-0.parquet"], "", DOCVQA, "found: ./ with test, val. "),
        ([], "", DOCVQA, "found: no parquet files"),
        (["test-dev-00000-of-00001.parquet"], "", CHARTQA, "found: ./ with test-dev"),
        (["validation-00000-of-00001 (1).parquet"], "", DOCVQA, "has no split validation"),
        (["partial-test/0000.parquet"], "", CHARTQA, "has no split test"),
        # not all of it, or more
        ([f"test-0000{i}-of-00003.parquet" for i in (0, 2)], "", CHARTQA, "lacks 1 of its 3 files (00001-of"),
        (["test-00001-of-00002.parquet"], "", CHARTQA, "lacks 1 of its 2 files (00000-of-00002)"),
        (["test-0.parquet", "test-2.parquet"], "", CHARTQA, "lacks 1 of its 3 files (1)"),
        (["test/0001.parquet", "test/0003.parquet"], "", CHARTQA, "lacks 1 of its 3 files (2)"),
        (["test-00000-of-00001.parquet", "test-00000-of-00002.parquet"], "", CHARTQA, "more than once"),
        (["test-00000-of-00003.parquet", "test-00003-of-00004.parquet"], "", CHARTQA, "more than once"),
        (["test-0.parquet", "test-00.parquet"], "", CHARTQA, "more than once"),
        (["test-0.parquet", "test.parquet"], "", CHARTQA, "more than once"),
        (["test-0.parquet", "test-0.PARQUET"], "", CHARTQA, "more than once"),
        (["test-0.parquet", "data/test-0.parquet"], "", CHARTQA, "was found more than once"),
        (["test-0.parquet", "test/0000.parquet"], "", CHARTQA, "was found more than once"),
        (SNAPSHOTS, CACHED, DOCVQA, "holds 2 commits (aa, bb), and refs/main names none of them"),
        # files that are none
        ([f"{ONE} -> nowhere"], "", DOCVQA, "is a link to nowhere, which does not exist; copy it again"),
        ([f"a::b/{ONE}"], "a::b", DOCVQA, "cannot read a path with '::'; rename it"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_to_be_the_documents_is_refused(
    files: Files, there: list[str], path: str, asked: Wanted, said: str
) -> None:
    assert said in refusal(files(*there) / path, asked)


def test_the_same_file_under_two_numbers_is_refused(files: Files) -> None:
    root = files("test-00000-of-00002.parquet")
    shutil.copy(root / "test-00000-of-00002.parquet", root / "test-00001-of-00002.parquet")
    assert "holds the same file twice" in refusal(root, CHARTQA)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("test-0.parquet", b"", "is damaged ("),
        ("test-0.parquet", b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
        ("data-00000-of-00001.arrow", b"", "found: Arrow files, as save_to_disk writes them; convert"),
        ("test.csv", b"", "found: CSV files"),
        ("test.jsonl", b"", "found: JSON files"),
        ("test.tar", b"", "found: packed files (.tar)"),
    ],
)  # fmt: skip
def test_files_of_another_kind_are_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refusal(tmp_path, CHARTQA)


def test_files_without_rows_or_with_other_columns_are_refused(tmp_path: Path) -> None:
    Dataset.from_dict({"a": []}).to_parquet(tmp_path / "test-0.parquet")
    assert "holds no documents" in refusal(tmp_path, CHARTQA)
    Dataset.from_dict({"b": [1]}).to_parquet(tmp_path / "test-1.parquet")
    assert "do not have the same columns (a, b)" in refusal(tmp_path, CHARTQA)


def card(folder: Path, configs: dict[str, object], documents: dict[str, int] | None = None) -> None:
    """A README.md as the hub's, with the patterns of the splits, and the number of their documents."""
    header = {
        "configs": [
            {"config_name": name, "data_files": [{"split": s, "path": p} for s, p in splits.items()]}
            for name, splits in configs.items()
            if isinstance(splits, dict)
        ],
        "dataset_info": [
            {"config_name": name, "splits": [{"name": "validation", "num_bytes": 1, "num_examples": count}]}
            for name, count in (documents or {}).items()
        ],
    }
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(header)}---\n\n# A card\n")


def test_a_card_says_where_configs_lie(files: Files) -> None:
    root = files("r/a/one-00000-of-00001.parquet", "r/b/x.parquet", "r/b/y.parquet", "r/old/x.parquet")
    configs: dict[str, object] = {
        "DocVQA": {"validation": "a/one-*"},
        "InfographicVQA": {"validation": ["b/x.parquet", "b/y.parquet"]},
    }
    card(root / "r", configs)
    assert chosen(root / "r", DOCVQA, root) == ["r/a/one-00000-of-00001.parquet"]
    assert chosen(root / "r", INFOVQA, root) == ["r/b/x.parquet", "r/b/y.parquet"]
    assert "is one of the configs DocVQA, InfographicVQA (README.md)" in refusal(root / "r", SCIENCEQA)
    files("r/a/one-00000-of-00001 (copy).parquet")
    assert "more than once" in refusal(root / "r", DOCVQA)


def test_a_card_says_what_is_missing(files: Files) -> None:
    root = files("DocVQA/DocVQA/validation-00000-of-00001.parquet")
    configs: dict[str, object] = {name: {"validation": f"{name}/*"} for name in ("DocVQA", "InfographicVQA")}
    card(root / "DocVQA", configs, {"DocVQA": 2})
    assert len(find_local_files(root, DOCVQA)) == 1
    assert "lacks the files of split validation of InfographicVQA: its README.md says" in refusal(
        root, INFOVQA
    )
    card(root / "DocVQA", {}, {"DocVQA": 3})
    for path in ("", "DocVQA", "DocVQA/DocVQA"):
        assert "holds 2 documents of split validation, and its README.md says 3" in refusal(
            root / path, DOCVQA
        )


def test_the_card_of_a_data_set_of_one_s_own_is_followed(files: Files) -> None:
    root = files("mine/data/validation-00000-of-00001.parquet", "mine/raw/validation-0.parquet")
    card(root / "mine", {"default": {"validation": "data/validation-*"}}, {"default": 2})
    expected = ["mine/data/validation-00000-of-00001.parquet"]
    assert chosen(root / "mine", DOCVQA, root) == expected
    assert chosen(root / "mine", TEXTVQA, root) == expected


def test_a_card_that_cannot_be_read_or_leads_elsewhere_is_refused(files: Files) -> None:
    root = files(ONE)
    card(root, {"default": {"validation": "../elsewhere/*"}})
    assert "names files elsewhere" in refusal(root, TEXTVQA)
    (root / "README.md").write_text("---\nconfigs: 3\n---\n")
    assert "README.md cannot be read (" in refusal(root, TEXTVQA)
    (root / "README.md").write_text("# My questions\n")
    assert len(find_local_files(root, TEXTVQA)) == 1


def test_a_card_of_other_files_than_parquet_says_so(files: Files) -> None:
    root = files("ChartQA/other-0.parquet")
    card(root / "ChartQA", {"default": {"test": "test.csv"}})
    (root / "ChartQA" / "test.csv").write_text("a\n1\n")
    assert "not as parquet (test.csv); convert it" in refusal(root, CHARTQA)


@pytest.mark.parametrize(
    ("method", "said"),
    [("iterdir", "cannot be read: Permission denied"), ("open", "test-0.parquet cannot be read: Permission")],
)
def test_what_may_not_be_read_is_named(
    files: Files, monkeypatch: pytest.MonkeyPatch, method: str, said: str
) -> None:
    """The tests may run as root, who may read everything."""
    root = files("test-0.parquet")
    usual = getattr(Path, method)

    def forbidden(path: Path, *arguments: object) -> object:
        if path in (root, root / "test-0.parquet"):
            raise PermissionError(13, "Permission denied")
        return usual(path, *arguments)

    monkeypatch.setattr(Path, method, forbidden)
    assert said in refusal(root, CHARTQA)


def test_a_file_is_no_folder(files: Files) -> None:
    file = files(ONE) / ONE
    with pytest.raises(UserError, match="is a file; name the folder that it is in"):
        find_data_source("hub", file, None)


def test_what_lmms_eval_reads_is_known() -> None:
    known = known_data_sets()
    assert {"DocVQA", "InfographicVQA"} <= known["docvqa"]
    assert known["scienceqa"] == {"ScienceQA-FULL", "ScienceQA-IMG"}
    assert wanted({"dataset_path": "a/B", "dataset_name": "default", "validation_split": "dev"}) == Wanted(
        "a/B", None, "dev"
    )
