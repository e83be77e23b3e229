"""The original LLaVA layout becomes the stock layout: every bit, and the same logits."""

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from hired_eval.dropping import HiRED
from hired_eval.errors import UserError
from hired_eval.models.answering import DroppingVLM, Question
from hired_eval.models.checkpoint import load_checkpoint
from hired_eval.models.convert import IMAGE, PAD, convert
from tests import tiny

VOCABULARY, ROWS = 300, 320
TOWER_NAME = "vit-tiny"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def reference() -> LlavaForConditionalGeneration:
    """A stock model as the conversion should give it: rows behind the original vocabulary are the mean."""
    model, _ = tiny.llava()
    config = model.config
    config.text_config.vocab_size, config.image_token_id = ROWS, VOCABULARY
    torch.manual_seed(1)
    model = LlavaForConditionalGeneration(config).eval()
    tiny._spread(model)
    with torch.no_grad():
        for table in (model.get_input_embeddings().weight, model.lm_head.weight):
            table[VOCABULARY:] = table[:VOCABULARY].mean(0)
    return model


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sentencepiece model of LLaMA's kind."""
    prefix = tmp_path_factory.mktemp("spm") / "tokenizer"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(
            ["what is the total amount on the page", "user assistant question answer"] * 20
        ),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        hard_vocab_limit=True,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


def original_tensors(model: LlavaForConditionalGeneration) -> tuple[Tensors, Tensors]:
    """The tensors as the original code names them: language model and projector, vision tower."""
    checkpoint, tower = {}, {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.clone()
        if name.startswith("model.vision_tower."):
            tower[name.replace("model.vision_tower.", "vision_model.")] = tensor
            continue
        name = name.replace("model.language_model.", "model.")
        name = name.replace("multi_modal_projector.linear_1", "mm_projector.0")
        name = name.replace("multi_modal_projector.linear_2", "mm_projector.2")
        checkpoint[name] = tensor[:VOCABULARY].clone() if len(tensor) == ROWS else tensor
    for i in range(model.config.text_config.num_hidden_layers):
        checkpoint[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    tower["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    return checkpoint, tower


def write_shards(tensors: Tensors, folder: Path, kind: str, shards: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    stem = "model" if kind == "safetensors" else "pytorch_model"
    weight_map = {}
    for i in range(shards):
        file = folder / f"{stem}-{i + 1:05d}-of-{shards:05d}.{kind}"
        part = {name: tensors[name] for name in names[i::shards]}
        weight_map |= dict.fromkeys(part, file.name)
        if kind == "safetensors":
            save_file(part, file)
        else:
            torch.save(part, file)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_config(model: LlavaForConditionalGeneration, spm: Path, folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = model.config.text_config
    keep = (
        "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads rms_norm_eps"
    )
    config = {key: getattr(text, key) for key in keep.split()} | {
        "model_type": "share4v",
        "architectures": ["Share4VLlamaForCausalLM"],
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "torch_dtype": "float32",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": f"someone/{TOWER_NAME}",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "image_aspect_ratio": "pad",
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.model").write_bytes(spm.read_bytes())
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **tokens}))


@pytest.fixture
def original(tmp_path: Path, reference: LlavaForConditionalGeneration, spm: Path) -> Callable[..., Path]:
    """Writes the reference in the original layout."""

    def write(kind: str = "safetensors", inside: bool = False, **changes: Any) -> Path:
        folder, tower_folder = tmp_path / "original", tmp_path / TOWER_NAME
        write_config(reference, spm, folder, **changes)
        checkpoint, tower = original_tensors(reference)
        tower_folder.mkdir()
        vision = reference.config.vision_config.to_dict()
        (tower_folder / "config.json").write_text(json.dumps(vision))
        if inside:
            checkpoint |= {f"model.vision_tower.vision_tower.{name}": t for name, t in tower.items()}
        else:
            write_shards(tower, tower_folder, kind, shards=1)
        write_shards(checkpoint, folder, kind)
        return folder

    return write


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("inside", [False, True])
def test_round_trip(
    original: Callable[..., Path],
    reference: LlavaForConditionalGeneration,
    tmp_path: Path,
    kind: str,
    inside: bool,
) -> None:
    target = tmp_path / "stock"
    convert(original(kind, inside), target, allow_pickle=kind == "bin")
    model, report = LlavaForConditionalGeneration.from_pretrained(
        target, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values())
    assert model.state_dict().keys() == reference.state_dict().keys()
    for name, tensor in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    processor = AutoProcessor.from_pretrained(target)
    inputs = processor(images=tiny.picture(80, 60), text=f"user {IMAGE} what?", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model.eval()(**inputs).logits, reference(**inputs).logits)
    saved = tmp_path / "saved"
    reference.save_pretrained(saved)
    written = [load_file(file) for file in sorted(target.glob("*.safetensors"))]
    assert set().union(*written) == load_file(saved / "model.safetensors").keys()


def test_tokenizer_has_the_added_tokens(original: Callable[..., Path], tmp_path: Path) -> None:
    target = tmp_path / "stock"
    convert(original(), target)
    processor = AutoProcessor.from_pretrained(target)
    tokenizer = processor.tokenizer
    assert tokenizer.convert_tokens_to_ids([IMAGE, PAD]) == [VOCABULARY, VOCABULARY + 1]
    assert (tokenizer.pad_token, tokenizer.padding_side) == (PAD, "left")
    ids = tokenizer(f"user {IMAGE} what is the total")["input_ids"]
    assert ids[0] == 1
    assert ids.count(VOCABULARY) == 1
    assert "what is the total" in tokenizer.decode(ids)


def test_tokenizer_gives_the_ids_of_sentencepiece(
    original: Callable[..., Path], tmp_path: Path, spm: Path
) -> None:
    convert(original(), tmp_path / "stock")
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "stock").tokenizer
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(spm))
    for text in (
        "what is the total",
        "user: answers, pages\n  Ünïcode ≤ 7",
        "</s> is text",
        "a",
        "amounttotal",
    ):
        assert tokenizer(text, split_special_tokens=True)["input_ids"] == [1, *pieces.encode(text)]


def test_pictures_are_padded_to_a_square(original: Callable[..., Path], tmp_path: Path) -> None:
    convert(original(), tmp_path / "stock")
    processor = AutoProcessor.from_pretrained(tmp_path / "stock")
    wide = processor.image_processor(images=[tiny.picture(112, 56)], return_tensors="pt")["pixel_values"]
    assert wide.shape == (1, 3, tiny.SIZE, tiny.SIZE)
    # padded to a square, so that nothing of a wide picture is cut off: the border is the mean colour, 0
    assert wide[..., 0, :].abs().max() < 0.05 < wide[..., tiny.SIZE // 2, :].abs().max()


def test_converted_checkpoint_answers(original: Callable[..., Path], tmp_path: Path) -> None:
    target = tmp_path / "stock"
    convert(original(), target)
    llava = DroppingVLM(load_checkpoint(str(target), device="cpu"), HiRED(budget=0.5), "{images} {question}")
    prepared = llava.prepare(Question("what is the total?", (tiny.picture(90, 60),)))
    (answer,) = llava.answer([prepared], {"max_new_tokens": 3})
    assert (answer.counts[0].kept, answer.counts[0].full) == (8, 16)


def test_pickle_needs_permission(original: Callable[..., Path], tmp_path: Path) -> None:
    source = original("bin")
    with pytest.raises(UserError, match="--allow-pickle"):
        convert(source, tmp_path / "stock")


class Evil:
    def __reduce__(self) -> Any:
        return print, ("code ran",)


def test_code_in_a_pickle_is_not_run(
    original: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = original("bin")
    torch.save({"lm_head.weight": Evil()}, source / "pytorch_model-00002-of-00003.bin")
    with pytest.raises(UserError, match="holds more than tensors"):
        convert(source, tmp_path / "stock", allow_pickle=True)
    assert "code ran" not in capsys.readouterr().out


def changed(source: Path, change: Callable[[Tensors], None]) -> None:
    """Change the tensors of the first shard."""
    file = min(source.glob("*.safetensors"))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({"model.image_newline": torch.ones(3)}),
            r"1 tensors are unknown: model\.image_newline",
        ),
        (
            lambda t: t.pop("lm_head.weight"),
            r"1 tensors are missing: language_model\.lm_head\.weight",
        ),
        (
            lambda t: t.update({"lm_head.weight": torch.ones(3, 48)}),
            r"1 tensors are of another shape: lm_head\.weight \(3, 48\), not \(300, 48\)",
        ),
        (
            lambda t: t.update({"model.mm_projector.0.bias": torch.ones(48)}),
            r"1 tensors are there twice: model\.mm_projector\.0\.bias",
        ),
    ],
)
def test_wrong_tensors_are_named(
    original: Callable[..., Path], tmp_path: Path, change: Callable[[Tensors], None], message: str
) -> None:
    source = original()
    changed(source, change)
    with pytest.raises(UserError, match=message):
        convert(source, tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


def test_a_vision_tower_that_is_nowhere_is_missing(original: Callable[..., Path], tmp_path: Path) -> None:
    source = original(mm_vision_tower="someone/elsewhere")
    with pytest.raises(UserError, match=r"tensors are missing: .*vision_tower\."):
        convert(source, tmp_path / "stock")
    convert(source, tmp_path / "stock", vision_tower=tmp_path / TOWER_NAME)
    assert (tmp_path / "stock" / "config.json").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llava_mistral"}, "not in the original LLaVA layout.*llava_mistral"),
        ({"mm_projector_type": "linear"}, "mm_projector_type='linear' is not supported"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end=True is not supported"),
    ],
)
def test_other_layouts_are_refused(
    original: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        convert(original(**changes), tmp_path / "stock")


def test_damaged_and_missing_files_are_named(original: Callable[..., Path], tmp_path: Path) -> None:
    source = original()
    shard = max(source.glob("*.safetensors"))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=re.escape(f"{shard} cannot be read")):
        convert(source, tmp_path / "stock")
    shard.unlink()
    with pytest.raises(UserError, match=re.escape(f"{shard} cannot be read")):
        convert(source, tmp_path / "stock")
    (source / "tokenizer.model").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        convert(source, tmp_path / "stock")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        convert(tmp_path / "nowhere", tmp_path / "stock")


def test_an_existing_target_and_a_failed_write_leave_nothing_half(
    original: Callable[..., Path], tmp_path: Path
) -> None:
    source = original()
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(UserError, match="exists already"):
        convert(source, blocked)
    with pytest.raises(UserError, match="cannot write"):
        convert(source, blocked / "stock")
    target = tmp_path / "out" / "stock"

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, target, say=stop)
    assert list(target.parent.iterdir()) == []


def test_memory_stays_within_twice_the_largest_shard(original: Callable[..., Path], tmp_path: Path) -> None:
    layers, width, inner = 12, 512, 4096
    source = original(num_hidden_layers=layers, hidden_size=width, intermediate_size=inner)
    for file in source.glob("model*"):
        file.unlink()
    shapes = {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
    shapes |= {f"self_attn.{p}_proj": (width, width) for p in "qo"}
    shapes |= {f"self_attn.{p}_proj": (width // 2, width) for p in "kv"}
    shapes |= dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (width,))
    tensors = {
        f"model.layers.{i}.{n}.weight": torch.ones(s) for i in range(layers) for n, s in shapes.items()
    }
    tensors |= {n: torch.ones(VOCABULARY, width) for n in ("model.embed_tokens.weight", "lm_head.weight")}
    tensors |= {"model.norm.weight": torch.ones(width)}
    for i, columns in ((0, 32), (2, width)):
        tensors[f"model.mm_projector.{i}.weight"] = torch.ones(width, columns)
        tensors[f"model.mm_projector.{i}.bias"] = torch.ones(width)
    write_shards(tensors, source, "safetensors", shards=layers // 2)
    largest = max(file.stat().st_size for file in source.glob("*.safetensors"))
    total = sum(tensor.nbytes for tensor in tensors.values())
    code = f"""
        import resource
        from pathlib import Path
        from hired_eval.models.convert import convert
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        before = peak()
        convert(Path({str(source)!r}), Path({str(tmp_path)!r}) / "stock", say=lambda line: None)
        print(peak() - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    used = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    # the library's own modules and the tokenizer, loaded on the way, take their share
    assert total > 4 * largest
    assert used < 2 * largest + 48 * 2**20
