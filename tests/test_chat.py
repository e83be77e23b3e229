"""lmms-eval's chat form: full execution answers as lmms-eval's own models, and as the simple form does."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pytest
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from loguru import logger
from transformers import AutoProcessor

from hired_eval.errors import UserError
from hired_eval.lmms.documents import read_messages, read_single_turn
from hired_eval.lmms.model import HiredVLM, HiredVLMChat
from hired_eval.models.prompt import Turn, render_chat
from tests import tiny

SIZES = [(224, 448), (448, 224), (224, 224)]
"""Of whole tokens in both Qwen models, whose classes in lmms-eval resize a picture twice."""
PIXELS = {"min_pixels": 4 * 28 * 28, "max_pixels": 600 * 600}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}:{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %};"
    "{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
UTILS = """
def pictures(document):
    return document["images"]

def question(document):
    return document["question"]

def messages(document):
    first, *others = document["images"]
    content = [{"type": "image", "url": first}, {"type": "text", "text": " before "}]
    content += [part for image in others for part in ({"type": "image", "url": image},
                                                      {"type": "text", "text": "between"})]
    return [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "yes?"}]},
        {"role": "user", "content": [*content, {"type": "text", "text": document["question"]}]},
    ]
"""
TASK = """
task: {name}
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {folder}/data.parquet}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.pictures
doc_to_text: !function utils.question
doc_to_target: question
{messages}generation_kwargs: {{max_new_tokens: 6}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
OWN: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llava": ("llava_hf", {"dtype": "float32"}, {}),
    "llava_next": ("llava_hf", {"dtype": "float32"}, {}),
    "llava_onevision": ("llava_hf", {"dtype": "float32"}, {}),
    "internvl": ("internvl_hf", {}, {}),
    "qwen2_5_vl": ("qwen2_5_vl", PIXELS, PIXELS),
    "qwen3_vl": ("qwen3_vl", PIXELS, {**PIXELS, "system_prompt": "You are a helpful assistant."}),
}
"""lmms-eval's own model of each family, and options for it and for ours."""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    """A task whose messages lmms-eval makes of pictures and question, and one with messages of its own."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": f"which{i}?", "images": [tiny.picture(*SIZES[k], seed=k + i) for k in shown]}
        for i, shown in enumerate(([0], [1], [2, 0]))
    ]
    features = {"question": datasets.Value("string"), "images": datasets.List(datasets.Image())}
    datasets.Dataset.from_list(rows, datasets.Features(features)).to_parquet(folder / "data.parquet")
    (folder / "utils.py").write_text(UTILS)
    for name, messages in (("toy_plain", ""), ("toy_turns", "doc_to_messages: !function utils.messages\n")):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, folder=folder, messages=messages))
    return TaskManager(verbosity="ERROR", include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders with a tiny model and its processor, with a chat template."""
    known: dict[str, Path] = {}

    def save(family: str) -> Path:
        if family not in known:
            model, processor = getattr(tiny, family)()
            known[family] = tmp_path_factory.mktemp(family)
            image = tiny.QWEN_IMAGE if "qwen" in family else f"{processor.image_token}!"
            processor.chat_template = TEMPLATE.replace("IMAGE", image)
            for part in (model.bfloat16().float(), processor):
                part.save_pretrained(known[family])
        return known[family]

    return save


def answers(model: Any, names: list[str], tasks: TaskManager) -> list[str]:
    """To all documents of some tasks, task after task."""
    results = simple_evaluate(
        model, tasks=names, task_manager=tasks, bootstrap_iters=0, verbosity="ERROR", process_docs_parallel=1
    )
    samples = [
        sample for name in names for sample in sorted(results["samples"][name], key=lambda s: s["doc_id"])
    ]
    return [sample["filtered_resps"][0] for sample in samples]


@pytest.mark.parametrize("family", OWN)
def test_full_answers_as_lmms_evals_own_model(
    family: str, saved: Callable[[str], Path], tasks: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    # which those classes import to read videos
    decord = ModuleType("decord")
    decord.VideoReader = decord.cpu = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "decord", decord)
    name, of_own, options = OWN[family]
    own = get_model(name)(pretrained=str(saved(family)), device="cpu", device_map="cpu", **of_own)
    ours = HiredVLMChat(
        str(saved(family)), method="full", device="cpu", dtype=of_own.get("dtype", "bfloat16"), **options
    )
    known, found = (answers(model, ["toy_plain", "toy_turns"], tasks) for model in (own, ours))
    assert len(set(known)) > 1, "answers must depend on the picture"
    if family == "llava_onevision":
        # several pictures lmms-eval's class cuts into sub-images, the stock chat template none
        del found[2::3], known[2::3]
    assert found == known


def test_the_chat_form_says_what_needs_the_simple_one_before_lmms_eval_fails(
    saved: Callable[[str], Path],
) -> None:
    said: list[str] = []
    sink = logger.add(said.append, level="INFO")
    for form in (HiredVLM, HiredVLMChat):
        assert not any("--force_simple" in line for line in said)
        form(str(saved("internvl")), method="full", device="cpu")
    logger.remove(sink)
    assert sum("choices by likelihood need --force_simple" in line for line in said) == 1


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_both_forms_give_the_same_answers(
    family: str, saved: Callable[[str], Path], tasks: TaskManager
) -> None:
    options: dict[str, Any] = {"method": "random", "budget": 0.4, "device": "cpu"}
    simple, chat = (
        answers(form(str(saved(family)), **options), ["toy_plain"], tasks)
        for form in (HiredVLM, HiredVLMChat)
    )
    # the simple form puts a space between the places of several pictures, the template what it likes
    assert simple[:2] == chat[:2]


def test_a_prompt_that_is_named_has_room_for_one_turn(
    saved: Callable[[str], Path], tasks: TaskManager
) -> None:
    options: dict[str, Any] = {"method": "full", "device": "cpu", "prompt": "b:{images}{question}"}
    simple, chat = (form(str(saved("llava")), **options) for form in (HiredVLM, HiredVLMChat))
    assert answers(simple, ["toy_plain"], tasks) == answers(chat, ["toy_plain"], tasks)
    assert read_single_turn([Turn("user", (None, "a", None, "b"))]) == "<image>a<image>b"
    with pytest.raises(UserError, match="turns of user, assistant, and the prompt has room for one question"):
        read_single_turn([Turn("user", ("a",)), Turn("assistant", ("b",))])


def test_what_the_chat_form_cannot_show_is_refused() -> None:
    film = [{"role": "user", "content": [{"type": "video", "url": "film.mp4"}]}]
    with pytest.raises(UserError, match="its task shows a video; this model sees only pictures"):
        read_messages(film)


def test_texts_of_a_conversation_stay_text(saved: Callable[[str], Path]) -> None:
    processor = AutoProcessor.from_pretrained(saved("internvl"))
    turns = [Turn("system", ("<s>",)), Turn("user", (None, " a<image>b \ue0000\ue001"))]
    made = render_chat(turns, processor, "<img><image></img>")
    assert made == "system:< s>;user:<img><image></img>!a< image>b \ue0000\ue001;A:"
    processor.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(
        UserError, match=r"refuses the task's messages .roles must alternate.; take the simple"
    ):
        render_chat(turns, processor, "<image>")
