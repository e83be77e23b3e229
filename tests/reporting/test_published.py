"""The paper's numbers: complete, from where they say, and with the oddities that the notes name."""

from functools import cache

import pandas as pd
import pytest

from hired_eval.dropping.registry import build
from hired_eval.paths import published_folder
from hired_eval.reporting.configs import PACKAGED
from hired_eval.reporting.published import Numbers, published, value
from hired_eval.reporting.rows import Row

CELLS = {"table2": 10, "table3": 96, "table4": 27, "table5": 32, "table6": 24}


@cache
def numbers(name: str) -> Numbers:
    return published(PACKAGED.spec(name))


def frame(name: str) -> pd.DataFrame:
    return pd.DataFrame(numbers(name))


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_is_there_once_and_names_its_table(name: str) -> None:
    found = frame(name)
    assert len(found) == CELLS[name]
    assert not found.drop(columns="value").duplicated().any()
    assert set(found["source"]) == {f"arXiv:2408.10945v3 Table {name[-1]}"}
    values = pd.to_numeric(found["value"], errors="coerce")
    assert set(found.loc[values.isna(), "value"]) <= {"OOM"}
    assert (values.dropna() > 0).all()


@pytest.mark.parametrize("name", PACKAGED.files("report"))
def test_a_packaged_table_names_only_what_exists(name: str) -> None:
    spec = PACKAGED.spec(name)
    models = {m for note in spec.notes for m in (*note.models, *note.unless_models)}
    assert models | {*spec.models} | spec.stand_for.keys() <= PACKAGED.files("model").keys()
    if spec.kind != "efficiency":
        assert {c.name for c in spec.columns if c.show in ("score", "flips")} <= PACKAGED.files("task").keys()
    for row in spec.rows:
        made = PACKAGED.row(row)
        assert row.method in PACKAGED.files("method")
        values = {k: 3 if v == {"above": 0} else v for k, v in made.options.items()}
        dropper = build(row.method, **values, **({"budget": made.budget} if made.budget else {}))
        assert type(dropper).__name__ == made.target
    if spec.stand_for:
        assert set(spec.stand_for.values()) == set(frame(name)["model"])


@pytest.mark.parametrize("name", ["table3", "table5", "table6"])
def test_every_number_is_in_one_cell(name: str) -> None:
    spec = PACKAGED.spec(name)
    rows = [PACKAGED.row(row) for row in spec.rows]
    cells = [
        value(numbers(name), row, model=model, benchmark=column.name)
        for row in rows
        for model in set(spec.stand_for.values())
        for column in spec.columns
    ]
    assert len([cell for cell in cells if cell]) == CELLS[name]


def test_numbers_that_the_papers_text_repeats() -> None:
    """Section 5.2: 4.7x throughput, 78 % lower latency, 14 % less memory; section 5.1: 26 % on DocVQA."""

    def at(budget: str, quantity: str) -> float:
        row = Row("", "", published={"method": "hired" if budget else "full", "budget": budget})
        return float(value(numbers("table4"), row, batch_size="1", quantity=quantity) or "nan")

    tokens, latency, memory = (
        "throughput_tokens_per_second",
        "time_to_first_token_seconds",
        "memory_gigabytes",
    )
    assert round(at("0.2", tokens) / at("", tokens), 1) == 4.7
    assert round(1 - at("0.2", latency) / at("", latency), 2) == 0.78
    assert round(1 - at("0.2", memory) / at("", memory), 2) == 0.14
    where = {"model": "LLaVA-Next-7B", "benchmark": "docvqa"}
    plus, hired = (
        float(value(numbers("table3"), Row("", "", published=key), **where) or "nan")
        for key in ({"method": "prumerge_plus", "budget": ""}, {"method": "hired", "budget": "0.2"})
    )
    assert int(100 * (1 - plus / hired)) == 26


def test_the_oddities_are_in_the_numbers() -> None:
    table2 = frame("table2")
    assert table2[table2["top_share"] == "0.2"]["value"].astype(int).sum() == 577
    table5 = frame("table5").set_index(["choice", "option"])["value"]
    assert list(table5["distribute", "layer 22"]) == list(table5["drop_layer", "layer 0"])
    vqa = {"model": "LLaVA-1.5-7B", "benchmark": "vqav2"}
    forty, full = (
        value(numbers("table6"), Row("", "", published=key), **vqa)
        for key in ({"method": "hired", "budget": "0.4"}, {"method": "full", "budget": ""})
    )
    assert float(forty or 0) > float(full or 0)
    assert all(PACKAGED.spec(name).notes for name in CELLS)


def test_rows_of_other_papers_name_their_lineage_and_what_is_copied() -> None:
    rows = numbers("published_next")
    found = frame("published_next")
    assert (found != "").all(axis=None)
    assert not found.duplicated().any()
    assert pd.to_numeric(found["value"]).between(20, 1900).all()
    assert set(found["tokens"]) == {"2880", "1440", "720", "640", "320", "288", "160"}

    def printed(method: str, tokens: str, benchmark: str) -> str | None:
        row = Row("", "", published={"method": method, "tokens": tokens})
        return value(rows, row, model="LLaVA-NeXT-7B", benchmark=benchmark)

    assert printed("full", "2880", "gqa") == "64.2 (A, C: copied); 62.5 (B)"
    assert printed("full", "2880", "vizwiz") == "57.6 (A); 55.2 (B); 60.9 (B)"
    assert printed("hired", "320", "pope") == "83.3 (A)"
    assert printed("hired", "640", "pope") is None
    assert printed("fastervlm", "320", "textvqa") == "56.5 (A: copied)"
    assert printed("fastervlm", "320", "vqav2") == "74.0 (A)"
    assert printed("globalcom2", "288", "gqa") == "57.1 (GlobalCom2: copied)"
    assert printed("sparsevlm", "640", "scienceqa") == "67.3 (B); 67.7 (C)", "one number may be chance"


def test_a_number_the_paper_lacks_is_none() -> None:
    row = Row("", "", published={"method": "full", "budget": ""})
    assert value(numbers("table3"), row, model="mini", benchmark="docvqa") is None
    assert value(numbers("table3"), row, model="LLaVA-Next-7B") is None, "one of eight is none"
    assert value(numbers("table3"), row, model="LLaVA-Next-7B", nonsense="x") is None
    assert (published_folder() / "README.md").is_file()
