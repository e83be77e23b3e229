"""The table of every error that a user can meet: what provokes it, and its text.

… stands for what a library says or what a version decides; {model}, {data} and {tmp} for the tests' folders.
A list is what follows `python -m hired_eval` with the tiny model and data; a function gets a `Place`.
"""

from io import BytesIO

import torch
from PIL import Image

import hired_eval.mini
from hired_eval import HiREDReleased, Layouts
from hired_eval.cli.compare import main as compare
from hired_eval.cli.help import check_names
from hired_eval.cli.plan import main as plan
from hired_eval.cli.show import main as show
from hired_eval.dropping.registry import build
from hired_eval.dropping.types import refuse_nan
from hired_eval.models.answering import Question
from hired_eval.models.checkpoint import load_checkpoint, refuse_offloading
from hired_eval.models.families import family_of
from hired_eval.models.images import as_rgb
from hired_eval.models.prompt import check_template
from hired_eval.paths import expand_home
from hired_eval.records.store import Store
from hired_eval.reporting.__main__ import main as report
from hired_eval.reporting.figures import baselines
from hired_eval.runs.options import build_dropper, read_method
from tests import provocations as p
from tests.data import truncated_png
from tests.provocations import (
    Provocation,
    applied,
    described,
    encoding,
    hired_llava,
    loaded,
    ranked,
    record,
    reported,
    shown,
    tower,
    within,
)

DTYPES = "float32, float16, bfloat16"
RUN_AGAIN = "delete its folder or set rerun=true to run it again"
FREE_SPACE = (
    "free space or choose another folder (runs_dir=FOLDER, or --out), then start again: what was answered is "
    "kept"
)
LESS_MEMORY = (
    "try fewer tokens (budget), a smaller dtype (model.dtype), quantized weights (model.quantization), or "
    "another device"
)
MESSAGES: list[tuple[Provocation, str]] = [
    # names and options on the command line
    (
        ["method=hird"],
        "there is no method 'hird'; did you mean hired? known: …; a config of your own needs --config-dir "
        "FOLDER",
    ),
    (["method=hird", "--help"], "there is no method 'hird'; did you mean hired…? known: …"),
    (["task=docvq"], "there is no task 'docvq'; did you mean docvqa…? known: …"),
    (["model=llava_next_7"], "there is no model 'llava_next_7'; did you mean llava_next_7b…? known: …"),
    (["data=hubb"], "there is no data 'hubb'; did you mean hub? known: auto, bundled, hub"),
    (["profile=papr"], "there is no profile 'papr'; did you mean paper? known: mini, paper"),
    (["budgt=0.2"], "there is no option 'budgt'; did you mean budget…? known: …"),
    (["+budgt=0.2"], "there is no option 'budgt'; did you mean budget…? known: …"),
    (["method.alfa=0.2"], "there is no option 'alfa' of method hired; did you mean alpha…? known: …"),
    (
        ["--config-dir", "/no/folder"],
        "--config-dir /no/folder is not a folder; it holds method/, model/ or task/ with configs",
    ),
    (
        ["experiment=table3"],
        "experiment=table3 is added to a config, not part of it; write +experiment=table3",
    ),
    (["~limit"], "~limit: an option cannot be taken away; set it to null instead"),
    (["method=full,hired"], "method=full,hired names several values; add -m to run them all"),
    (
        ["-m", "method=prumerge", "budget=0.2"],
        "PruMerge has no token budget of its own; leave budget=0.2 out",
    ),
    (["+method.strength=0.3"], "HiRED has no option 'strength'; its options: …"),
    (
        ["method=full", "method._target_=tests.provocations.Placed"],
        "Placed has an option 'place', which in a method's config is for tables; give the option another "
        "name",
    ),
    (["alpha=0.3"], "there is no option 'alpha'; did you mean method.alpha?"),
    (
        ["-m", "model=mini,mini_1_5", "limit=1"],
        "model.path={model} is mini in this sweep, and cannot be mini_1_5 too; run one model at a time, each "
        "with its own model.path",
    ),
    (
        ["method=["],
        "method=[ cannot be read (…); put a value with signs in quotes, e.g. "
        """'model.prompt="{{images}} {{question}}"'""",
    ),
    (["budget=0.2,0.4"], "budget=0.2,0.4 names several values; add -m to run them all"),
    (
        ["budget=0,2"],
        "budget=0,2 names several values; for a sweep add -m; a number has a point: budget=0.2",
    ),
    (["seed=0,1"], "seed=0,1 names several values; add -m to run them all"),
    (["budget=20"], "budget must be above 0 and at most 1, got 20; for 20 % write 0.2"),
    (
        ["budget=20%"],
        "budget must be a number above 0 and at most 1, or null, got '20%'; for 20 % write 0.2",
    ),
    (["budget=0"], "budget must be above 0 and at most 1, got 0"),
    (["budget=-1"], "budget must be above 0 and at most 1, got -1"),
    (["budget=1.5"], "budget must be above 0 and at most 1, got 1.5"),
    (["budget=nan"], "budget must be above 0 and at most 1, got nan"),
    (["budget=x"], "budget must be a number above 0 and at most 1, or null, got 'x'"),
    (["budget=true"], "budget must be a number above 0 and at most 1, or null, got True"),
    (["method.alpha=2"], "alpha must be from 0 to 1, got 2"),
    (["model.alpha=-0.1"], "model.alpha must be from 0 to 1, got -0.1"),
    (["method.initial_layer=x"], "initial_layer must be a whole number of at least 0, or null, got 'x'"),
    (["method=full", "budget=0.4"], "Full has no token budget of its own; leave budget=0.4 out"),
    (["method=full", "tokens=64"], "Full has no token budget of its own; leave tokens=64 out"),
    (["tokens=64", "budget=0.4"], "budget and tokens are two budgets; set one of them"),
    (
        ["method.tokens=64"],
        "HiRED has budget=0.2 and tokens=64; give one of them, and null for the others",
    ),
    (
        ["method=fastv", "tokens_per_partition=9"],
        "FastV has no option tokens_per_partition; set budget or tokens",
    ),
    (["tokens=0"], "tokens must be a whole number of at least 1, got 0"),
    (["positions=sorted"], "positions must be 'compact' or 'original', or null, got 'sorted'"),
    (["protocol.name=grid"], "protocol.name must be 'paper' or 'fixed_grid', got 'grid'"),
    (
        ["protocol=fixed_grid", "+model.square=56"],
        "protocol=fixed_grid sets the resolution of every picture; leave min_pixels, max_pixels and square "
        "out",
    ),
    (["method.newline=x"], "newline must be 'none' or 'rows', got 'x'"),
    (
        ["method._target_=hired_eval.dropping"],
        "hired_eval.dropping is not a dropping method: method._target_ names a subclass of TokenDropper",
    ),
    (
        lambda place: check_names(["shwo", "x.png"]),
        "there is no command 'shwo'; did you mean show? known: report, rank, show, plan, compare, regress, "
        "lmms-tasks",
    ),
    (
        lambda place: baselines(Store(place.tmp)),
        "the curve needs a method at two budgets; run it with -m budget=0.4,0.2",
    ),
    (
        ["method._target_=hired_eval.Nothing"],
        "there is no class 'Nothing' in …hired_eval/__init__.py (method._target_); …known: …",
    ),
    (["batch_size=0"], "batch_size must be a whole number of at least 1, got 0"),
    (["batch_size=null"], "batch_size must be a whole number of at least 1 or 'auto', got None"),
    (["limit=0"], "limit must be a whole number of at least 1, got 0"),
    (["limit=0.5"], "limit must be a whole number of at least 1, got 0.5"),
    (["precision=0"], "precision must be above 0 and at most 50, got 0"),
    (["precision=-1"], "precision must be above 0 and at most 50, got -1"),
    (["precision=51"], "precision must be above 0 and at most 50, got 51"),
    (["order=first"], "order must be 'random' or 'dataset', got 'first'"),
    (
        ["decide=equal"],
        "decide must be different, or equivalent:POINTS with points above 0 and at most 50, e.g. "
        "equivalent:1, got 'equal'",
    ),
    (
        ["precision=5", "limit=3"],
        "precision and decide choose how many documents are answered; leave limit out",
    ),
    (
        ["decide=different", "order=dataset"],
        "precision and decide need documents in random order, since the first ones tell nothing about the "
        "others; leave order=dataset out",
    ),
    (["decide=different", "measure=gallery"], "measure=gallery has no score; leave precision and decide out"),
    (lambda place: plan(["--tflops=0"]), "--tflops must be above 0, got 0"),
    (["seed=x"], "seed must be a whole number of at least 0, got 'x'"),
    (["on_error=ignore"], "on_error must be 'stop' or 'record', got 'ignore'"),
    (
        ["measure=speed"],
        "measure must be 'accuracy', 'generation_attention', 'cls_attention', 'gallery', 'efficiency' or "
        "'efficiency_stock', got 'speed'",
    ),
    (
        ["measure=efficiency", "batch_size=auto"],
        "batch_size=auto is for answers; name the number of pictures whose speed is measured",
    ),
    (
        ["measure=efficiency_stock"],
        "measure=efficiency_stock times the stock model, which drops nothing; set method=full",
    ),
    (
        ["measure=efficiency_stock", "method=full", "protocol=fixed_grid"],
        "measure=efficiency_stock times the stock model, which has no protocol=fixed_grid; set "
        "protocol=paper",
    ),
    (
        ["measure=efficiency", "efficiency.text_tokens=1"],
        "efficiency.text_tokens must be a whole number of at least 2, got 1",
    ),
    (
        p.probe_twice,
        "measure=gallery runs in one process; start it without accelerate launch",
    ),
    # types of options
    (["rerun=no"], "rerun must be true or false, got 'no'"),
    (["runs_dir=none"], "runs_dir must be a path, got 'none'"),
    (["runs_dir=true"], "runs_dir must be a path, got True"),
    (["+model.speed=3"], "there is no option model.speed; known: name, hub_id, path, …"),
    (p.option_missing, "the config lacks model.revision; build on a packaged config, as …"),
    (
        p.abstract_method,
        "SelectingDropper lacks score; write it (docs/extending.md)",
    ),
    (
        lambda place: build_dropper(read_method({"_target_": "tests.provocations.Needy"})),
        "Needy cannot be made: …missing 1 required keyword-only argument: 'power'",
    ),
    (
        lambda place: read_method({"label": "Mine"}),
        "the method's config has no _target_; write _target_: MODULE.CLASS in it (docs/extending.md)",
    ),
    (
        p.own_config("# Mine\n_target_: mine.Mine\nbudget 0.2\nlabel: Mine\n"),
        "{tmp}/method/mine.yaml:3 is not YAML (could not find expected ':'); correct it",
    ),
    (
        p.own_config("budget: 0.2\nbudget: 0.3\n"),
        "{tmp}/method/mine.yaml:2 is not YAML (found duplicate key budget); correct it",
    ),
    (p.own_config("budget: ${{a\n"), "{tmp}/method/mine.yaml cannot be read (…); correct it"),
    (p.own_module("unfinished", "x = 1\ndef f(:\n"), "{tmp}/unfinished.py:2: syntax error (…); correct it"),
    (
        p.own_module("misspelt", "x = y\n"),
        "the module misspelt cannot be loaded (NameError: name 'y' is not defined); correct it",
    ),
    (
        p.own_module("renamed", "from hired_eval import HiRED\nclass Mind(HiRED): pass\n"),
        "there is no class 'Mine' in {tmp}/renamed.py (method._target_); did you mean Mind? known: Mind",
    ),
    (
        p.lacking_library,
        "the module own_lacking imports nowhere_installed, which is not installed; install it or correct the "
        "name",
    ),
    (
        p.cannot_be_found,
        "tests.nowhere.Missing cannot be found (No module named 'tests.nowhere'); correct the name, start "
        "python -m hired_eval in the folder of your module, or install it",
    ),
    (
        lambda place: expand_home("~nobody-of-that-name/x"),
        "~nobody-of-that-name/x: there is no such home folder here; write the path out",
    ),
    (["budget", "0.2"], "budget 0.2: an option needs an equals sign; write budget=0.2"),
    (["budget", "=", "0.2"], "budget = 0.2: no spaces around the equals sign; write budget=0.2"),
    (["budget=", "0.2"], "budget= 0.2: no spaces around the equals sign; write budget=0.2"),
    (["-config-dir", "."], "there is no flag -config-dir; did you mean --config-dir? see python -m …"),
    (
        lambda place: compare(["method=hired", "budget=0.2", "method=full"]),
        "compare takes two runs, each in quotes, e.g. hired-eval compare 'method=hired budget=0.2 "
        "task=docvqa' 'method=full task=docvqa'",
    ),
    (
        ranked("budget=0.2", "group=docvqa,", "pope"),
        "group=docvqa, pope: a list has no spaces; write group=docvqa,pope",
    ),
    (["--budget", "0.2"], "--budget: options have no dashes here; write budget=0.2"),
    (["--colour"], "there is no flag --colour; see python -m hired_eval --help"),
    (["-m", "task=docvqa,", "pope"], "task=docvqa, pope: a list has no spaces; write task=docvqa,pope"),
    (
        ["model.prompt=USER:", "{{images}}", "{{question}}", "ASSISTANT:", "limit=2"],
        "'{{images}}' is a word on its own after model.prompt=USER:; put the whole option in quotes if its "
        "value holds spaces: 'model.prompt=USER: {{images}} {{question}} ASSISTANT:'",
    ),
    (["method=HiRED"], "there is no method 'HiRED'; did you mean hired? known: …"),
    (
        lambda place: check_names(["-m", "modl"]),
        "'modl' is not an option; write NAME=VALUE, e.g. model=VALUE",
    ),
    (
        ["model.prompt={{images}}\\r{{question}}"],
        "the prompt holds a backslash that is neither \\n (a line break) nor \\t (a tab), got '…'; "
        "leave it out",
    ),
    # data and benchmarks
    (["data.source=x"], "data.source must be 'auto', 'bundled' or 'hub', got 'x'"),
    (["data=bundled"], "data=bundled and data.path={data} exclude each other; leave one out"),
    (["data.path=/no/folder"], "data.path=/no/folder is not a folder"),
    (
        ["data.path=null", "data.name=receipts"],
        "data.name=receipts is for documents of your own; set data.path=FOLDER too",
    ),
    (
        ["data.name=hub"],
        "data.name must be a word of your own on one line, not bundled, hub or local copy; got 'hub'",
    ),
    (
        ["data.path={tmp}"],
        "data.path={tmp} has no split validation of lmms-lab-encoder/DocVQA, config DocVQA; found: no "
        "parquet files. Its parquet files must be in that folder, or in DocVQA/DocVQA below it, named as on "
        "the hub: validation-00000-of-00001.parquet",
    ),
    (p.damaged_inside, "the data of docvqa cannot be read: …"),
    (p.cut_data, "{tmp}/validation-0.parquet is damaged (…); copy it again"),
    (
        p.data_of_the_hub,
        "could not fetch the data set lmms-lab-encoder/DocVQA of docvqa from the hub (HF_HUB_OFFLINE "
        "is set); point "
        "to local copies with data.path=FOLDER and model.path=FOLDER, or use the bundled ones with "
        "data=bundled and model=mini",
    ),
    (
        ["task.lmms_task=docvqa_vl"],
        "lmms-eval has no task 'docvqa_vl' (task.lmms_task); did you mean docvqa_val…?",
    ),
    (["task.metric=f1"], "task docvqa_val has no metric 'f1'; it has anls…"),
    (["task.scale=x"], "task.scale must be a number, or null, got 'x'"),
    (["task.scoring=x"], "task.scoring must be one of mean, category_mean, mme, mmbench, ocrbench, got 'x'"),
    (["+task.category=x"], "task.scoring=mean takes no task.category; leave it out"),
    (["task=mme", "+task.scale=2"], "task.scoring=mme takes no task.scale; leave it out"),
    (
        lambda place: hired_eval.mini.write_data_files("nothing", place.tmp),
        "no mini benchmark 'nothing': choose one of vqav2, scienceqa, textvqa, docvqa, ocrbench, mme, pope, "
        "chartqa, or set data=hub or data.path=FOLDER",
    ),
    (
        p.drift,
        "mini benchmark pope: this machine draws other documents (pillow …, numpy …), so that results would "
        "not compare; install pillow==… and numpy==…",
    ),
    (p.no_picture, "t has no questions about a single picture"),
    # pictures and questions
    (
        lambda place: as_rgb(Image.new("I", (2, 2))),
        "an image of mode I has more than 8 bits a channel; convert it to 8 bits first",
    ),
    (
        lambda place: as_rgb(Image.open(BytesIO(truncated_png()["bytes"]))),
        "the image cannot be decoded: …truncated…",
    ),
    (lambda place: as_rgb(Image.new("RGB", (0, 5))), "an image of 0 x 5 pixels has nothing to see"),
    (p.not_a_picture, "docvqa_val document 2: its image cannot be read: cannot identify image file"),
    (
        lambda place: place.llava().prepare(Question("x" * 2100)),
        "the prompt has 2100 tokens, visual tokens included, and the model's context holds 2048",
    ),
    (p.no_tokens, "the continuation ' yes' has no tokens to score"),
    (
        p.wrong_placeholders,
        "the tokenizer makes 0 placeholders of 1 images; its image token must be '?' with id 4",
    ),
    (
        lambda place: p.out_of_memory(place, "answer"),
        f"docvqa_val document 0: memory ran out with one question; {LESS_MEMORY}",
    ),
    (
        lambda place: p.out_of_memory(place, "prepare"),
        f"docvqa_val document 0: memory ran out while its image was encoded; {LESS_MEMORY}",
    ),
    # checkpoints and where they run
    (["model.path=/no/folder"], "model.path=/no/folder is not a folder"),
    (["model.path=bundled:maxi"], "no bundled checkpoint 'maxi': choose one of mini, mini_1_5"),
    (["model.path=null"], "model mini names no checkpoint; set model.path=FOLDER or model.hub_id=ID"),
    (["model.dtype=int4"], "model.dtype must be 'float32', 'float16' or 'bfloat16', got 'int4'"),
    (loaded(dtype="int4"), f"dtype must be one of {DTYPES}, got 'int4'"),
    (loaded(weights="x"), "weights must be one of pretrained, pickle, dummy, got 'x'"),
    (["model.feature_layer=x"], "model.feature_layer must be a whole number, or null, got 'x'"),
    (loaded(feature_layer="x"), "feature_layer must be a whole number, e.g. -2, got 'x'"),
    (
        ["model.feature_layer=-20"],
        "vision_feature_layer=-20 is outside the vision tower, which has 4 layers",
    ),
    (loaded(quantization="x"), "quantization must be one of none, 8bit, 4bit, got 'x'"),
    (loaded(attention="x"), "attention must be one of sdpa, eager, flash_attention_2, got 'x'"),
    (
        lambda place: check_template("hello"),
        "the prompt must hold {{images}} and {{question}} once each, got 'hello'",
    ),
    (
        ["model.prompt=hello"],
        "prompt 'hello' is neither a template with {{images}} and {{question}} once each nor the name of a "
        "model config (…)",
    ),
    (["device=gpu"], "device 'gpu' is not known to PyTorch; try auto, cpu or cuda:0"),
    (p.no_gpu, "device 'cuda:0': PyTorch finds no CUDA GPU here; try device=auto or device=cpu"),
    (
        loaded(device_map="x"),
        "device_map must be one of auto, balanced, balanced_low_0, sequential, or null, got 'x'; one device "
        "is chosen with device=cpu or device=cuda:0",
    ),
    (
        p.spread_twice,
        "device_map spreads one model over all GPUs, and several processes each have a GPU of their own; "
        "leave device_map out, or start one process",
    ),
    (
        lambda place: p.no_package(place, "attention", "flash_attention_2"),
        "attention=flash_attention_2 needs the package flash-attn and a CUDA GPU; use attention=sdpa, which "
        "runs everywhere",
    ),
    (
        lambda place: p.no_package(place, "quantization", "8bit"),
        "quantization=8bit needs bitsandbytes: pip install bitsandbytes; or set quantization=none",
    ),
    (
        lambda place: load_checkpoint(str(place.model), weights="dummy", device_map="auto"),
        "weights=dummy goes onto one device unquantized; leave device_map and quantization out, and name it "
        "with device=",
    ),
    (
        lambda place: refuse_offloading({"a": "cpu", "b": 0}),
        "the model does not fit: 1 of its 2 parts would be copied in from memory or disk at every step; use "
        "more GPUs, quantization=8bit or 4bit, or a smaller model",
    ),
    (
        p.model_of_the_hub,
        "could not fetch nobody/nothing from the hub (HF_HUB_OFFLINE is set); point to local copies with "
        "model.path=FOLDER (in lmms-eval pretrained=FOLDER) and data.path=FOLDER, or use the bundled ones "
        "with model=mini and data=bundled",
    ),
    (
        ["model.path={tmp}"],
        "{tmp} is not a checkpoint that can be loaded: it has no config (config.json); copy the checkpoint "
        "again, whole",
    ),
    (
        p.without("tokenizer.json", "tokenizer_config.json"),
        "{tmp} is not a checkpoint that can be loaded: it has no tokenizer (tokenizer.json or "
        "tokenizer.model or vocab.*); copy the checkpoint again, whole",
    ),
    (
        p.without("processor_config.json"),
        "{tmp} is not a checkpoint that can be loaded: it has no image processor (preprocessor_config.json "
        "or processor_config.json); copy the checkpoint again, whole",
    ),
    (
        p.without("model.safetensors"),
        "{tmp} is not a checkpoint that can be loaded: it has no weights (*.safetensors or *.bin); copy the "
        "checkpoint again, whole",
    ),
    (p.cannot_be_imported, "{model} cannot be loaded here: this needs the package tiktoken"),
    (
        lambda place: p.with_config(place, '{"model_type": "mllama"}'),
        "{tmp} holds a 'mllama' model; supported are llava, llava_next, llava_onevision, internvl, "
        "qwen2_5_vl, qwen3_vl (checkpoints in the layout of transformers)",
    ),
    (
        lambda place: p.with_config(place, '{"model_type": "internvl_chat"}'),
        "{tmp} brings code of its own, which is not run; take the same model in the layout of transformers, "
        "e.g. OpenGVLab/InternVL3-1B-hf or OpenGVLab/InternVL3_5-1B-HF",
    ),
    (
        lambda place: p.with_config(place, '{"model_type": "llava", "mm_vision_tower": "x"}'),
        "{tmp} is in the original LLaVA layout; convert a local copy with python "
        "scripts/convert_sharegpt4v.py FOLDER TARGET, and set model.path=TARGET",
    ),
    (
        p.cut_weights,
        "{tmp} is not a checkpoint that can be loaded: its weights are damaged (…); copy them again",
    ),
    (p.cut_weights_of_the_hub, "the weights of {tmp} are damaged (…); fetch them again"),
    (
        p.other_weights,
        "the weights in {tmp} do not fit its config.json: … tensors are missing or of another shape, e.g. …; "
        "copy the checkpoint again",
    ),
    (
        p.pickled,
        "{tmp} holds its weights as pickle (*.bin), which can run code when it is loaded; convert them to "
        "safetensors, or, in python -m hired_eval, set model.weights=pickle if you trust them",
    ),
    (
        lambda place: p.pickled(place, b"<html>", weights="pickle"),
        "{tmp}/pytorch_model.bin is damaged: it is not a file of torch.save; copy it again",
    ),
    (
        lambda place: p.pickled(place, b"\x80\x02cos\nsystem\n", weights="pickle"),
        "the weights in {tmp} are damaged, or hold more than tensors, which could run code; take safetensors",
    ),
    (
        lambda place: family_of(torch.nn.Linear(2, 2)),
        "token dropping does not work on Linear; it works on LlavaForConditionalGeneration, "
        "LlavaNextForConditionalGeneration, LlavaOnevisionForConditionalGeneration, "
        "InternVLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration, "
        "Qwen3VLForConditionalGeneration",
    ),
    (
        p.tiled(lambda inputs: inputs.update(pixel_values=inputs["pixel_values"][1:])),
        "pixel_values hold 2 tiles, and the prompt has places for 3; make inputs with the model's own "
        "processor",
    ),
    (
        p.tiled(lambda inputs: inputs.update(input_ids=inputs["input_ids"][:, 2:])),
        "a picture has 11 placeholders in the prompt, and each of its tiles needs 4; make inputs with the "
        "model's own processor",
    ),
    (
        p.tiled(lambda inputs: inputs.update(image_sizes=[(56, 56)])),
        "image_sizes make pictures of [1] tiles, and the prompt has pictures of [3]; give (height, width) of "
        "each, or leave image_sizes out",
    ),
    (
        p.tiled(lambda inputs: None),
        "a picture of 3 tiles may have several grids, and this method reads where its tiles are; pass "
        "image_sizes=[(height, width), ...] of the pictures too",
    ),
    (
        p.siglip,
        "the vision tower is Identity, and token dropping in LlavaNextForConditionalGeneration needs "
        "CLIPVisionModel",
    ),
    (
        p.without_cls,
        "HiRED needs the CLS token, which SiglipVisionModel of LlavaOnevisionForConditionalGeneration does "
        "not have; set signal=received, for the attention that each token receives; methods that need none: "
        "full, …",
    ),
    (
        tower(vision_feature_layer=[-2, -1]),
        "vision_feature_layer=[-2, -1]: features of several layers are not supported; set one layer, e.g. "
        "model.feature_layer=-2",
    ),
    (
        tower(vision_feature_select_strategy="full"),
        "vision_feature_select_strategy='full' is not supported: visual tokens are the patches, without the "
        "CLS token",
    ),
    # dropping methods
    (
        ["method.final_layer=9"],
        "HiRED asks for attention of layer 9, and the vision tower has layers 0 to 3",
    ),
    (
        ["method.heads=single", "method.signal=auto"],
        "heads=single reads one head of CLS-attention, and signal=auto has no heads; take signal=cls or "
        "heads=sum",
    ),
    (
        ["method=globalcom2", "method.scores=logit", "method.signal=received"],
        "scores=logit reads logits of CLS-attention, and signal=received has none; take signal=cls or "
        "scores=attention",
    ),
    (
        ["method.heads=single", "method.head=9"],
        "docvqa_val document 0: head=9, and the vision tower has heads 0 to 3",
    ),
    (
        lambda place: HiREDReleased(budget=0.9, alpha=1.0).drop(encoding(), Layouts((p.LAYOUT,))),
        "alpha=1.0 leaves no token of the full-image to tell the sub-images apart, and 27 tokens of "
        "the budget "
        "are theirs: the released code divides 0 by 0 here; lower alpha",
    ),
    (
        lambda place: build("hird"),
        "there is no method 'hird'; did you mean hired…? known: …; here one of your own needs an entry point "
        "(docs/extending.md)",
    ),
    (
        lambda place: build("full", budget=1),
        "method full has no option 'budget'; its options: newline, positions",
    ),
    (lambda place: p.plugin(place, "x:X"), "method bright of x:X cannot be loaded: No module named 'x'"),
    (
        lambda place: p.plugin(place, "json:loads"),
        "method bright: json:loads is not a subclass of TokenDropper",
    ),
    (
        lambda place: refuse_nan("what is kept", torch.tensor(float("nan"))),
        "what is kept holds NaN; in a method of your own, look for a division by zero; elsewhere try another "
        "dtype, e.g. model.dtype=float32",
    ),
    (
        lambda place: encoding(cls_attention={}).attention_at(None),
        "this dropping method needs CLS-attention, and the encoding has none; add 'cls_attention' to what "
        "the method's class reads, e.g. reads = frozenset({{'cls_attention'}})",
    ),
    (
        lambda place: encoding().attention_at(2),
        "CLS-attention of layer 2 was not recorded; recorded layers: 0 (a method names those that it reads "
        "in attention_layers)",
    ),
    (
        lambda place: build("prumerge").vision.drop(encoding(), Layouts((p.LAYOUT,))),
        "this dropping method needs keys, and the encoding has none; add 'keys' to what the method's class "
        "reads, e.g. reads = frozenset({{'keys'}})",
    ),
    (
        lambda place: encoding(recorded_keys=torch.ones(3, 17, 8)).cls_query,
        "this dropping method needs the CLS query, and the encoding has none; add 'keys' to what the "
        "method's class reads, e.g. reads = frozenset({{'keys'}})",
    ),
    (applied(p.embeds), "token dropping needs input_ids with pixel_values, not inputs_embeds"),
    (
        applied(lambda inputs: inputs["input_ids"].fill_(1)),
        "the input has 0 image placeholders, and its 2 images need …; make inputs with the model's own "
        "processor",
    ),
    (applied(p.spread_over_rows), "the placeholders of image 1 are spread over two rows of the batch"),
    (
        applied(p.text_between),
        "1 tokens separate the … placeholders of an image; make inputs with the model's own processor",
    ),
    (
        applied(lambda inputs: inputs["attention_mask"][:, 3:5].fill_(0)),
        "attention_mask hides a part of an image's placeholders; hide all of them, or none",
    ),
    (
        applied(lambda inputs: inputs.update(attention_mask={"full_attention": None})),
        "attention_mask must be a tensor with a row a prompt and a column a token",
    ),
    (
        applied(lambda inputs: inputs.update(labels=torch.ones(1, 2))),
        "labels of shape (1, 2) do not fit input_ids of shape …",
    ),
    (
        applied(lambda inputs: inputs.pop("image_sizes")),
        "LlavaNext needs image_sizes with pixel_values; pass all that its processor made",
    ),
    (
        applied(lambda inputs: inputs.update(image_sizes=inputs["image_sizes"][:1])),
        "pixel_values of shape … are not those of 1 images of [3] partitions, as image_sizes has it; pass "
        "both as the processor made them",
    ),
    (p.sizes_of_llava, "image_sizes belongs to LLaVA-Next; leave it out"),
    (
        applied(lambda inputs: inputs.update(cu_seq_lens_q=torch.ones(1))),
        "cu_seq_lens_q is not supported with token dropping; leave it out",
    ),
    (
        within(lambda model, inputs: model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])),
        "get_image_features and model.model(...) would drop nothing; inside the block, images go through "
        "model(...) or model.generate(...)",
    ),
    (
        within(lambda model, inputs: model.generate(inputs_embeds=torch.zeros(1, 2, 48), **inputs)),
        "token dropping needs input_ids with pixel_values, not inputs_embeds",
    ),
    (
        applied(lambda inputs: inputs.update(position_ids=torch.zeros_like(inputs["input_ids"]))),
        "position_ids must count the tokens of an image one by one, or be left out",
    ),
    (
        within(
            lambda model, inputs: model.generate(
                **inputs | {"attention_mask": (inputs["input_ids"] != inputs["input_ids"][0, -1]).long()}
            )
        ),
        "generate goes on behind the last column; pad the prompts on the left",
    ),
    (
        within(p.in_another_thread),
        "the model drops visual tokens in a `with` block of another thread or task; wait until that is left, "
        "or load the model a second time",
    ),
    (
        within(lambda model, inputs: model(**p.turn(model, inputs), attention_mask=torch.ones(1, 7))),
        "attention_mask covers 7 tokens, and the prompt has …, with those in the KV cache",
    ),
    (
        within(
            lambda model, inputs: model(
                **(turn := p.turn(model, inputs)),
                position_ids=torch.tensor([[turn["past_key_values"].get_seq_length()]]),
            )
        ),
        "position_ids count what is in the KV cache, not the prompt as it was given; leave them out",
    ),
    (
        within(
            lambda model, inputs: model.generate(
                inputs["input_ids"], past_key_values=p.turn(model, inputs)["past_key_values"]
            )
        ),
        "input_ids hold … tokens, and the KV cache …; pass what follows them too",
    ),
    (
        within(lambda model, inputs: p.turn(model, inputs)["past_key_values"].crop(-9)),
        "crop(-9) would cut into a prompt without its dropped tokens; start again without the cache",
    ),
    (
        p.outside,
        "this KV cache holds a prompt without its dropped tokens; go on with it through model(...) or "
        "model.generate(...) inside a `with method(model)` block, or without the cache",
    ),
    (
        lambda place: family_of(torch.nn.Sequential(p.tiny.llava()[0])),
        "Sequential holds a model that token dropping works on; apply it to that one, then call the "
        "Sequential",
    ),
    # the plugin of lmms-eval
    (hired_llava(batch_size=0), "batch_size must be a whole number of at least 1, got 0"),
    (hired_llava(batch_size="many"), "batch_size must be a whole number of at least 1 or 'auto', got 'many'"),
    (hired_llava(on_error="x"), "on_error must be 'stop' or 'record', got 'x'"),
    (
        hired_llava(prompt="hello"),
        "prompt 'hello' is neither a template with {{images}} and {{question}} once each nor the name of a "
        "model config "
        "(…)",
    ),
    (
        hired_llava(prompt=None),
        "no model config has the hub id {model}, and it has no chat template of its own; name the "
        "prompt, e.g. "
        "prompt=llava_next_7b for Vicuna v1",
    ),
    (hired_llava(pretrained="/no/folder"), "pretrained=/no/folder is not a folder"),
    (
        p.several_rounds,
        "hired_vlm answers single-round tasks; this task asks for several rounds",
    ),
    (
        hired_llava(prompt="{images}'s {question},method=full"),
        "prompt swallows method=: lmms-eval takes all that follows an apostrophe or a quote that is not "
        "closed for text; put prompt last, or take an apostrophe out",
    ),
    (
        p.made_by_normalizing,
        "the tokenizer makes control tokens of text in the question '＜z＞'",
    ),
    # records and reports
    (["runs_dir=/dev/null/runs"], f"cannot write /dev/null/runs/…: Not a directory; {FREE_SPACE}"),
    (p.full_disk, f"cannot write {{tmp}}/run: No space left on device; {FREE_SPACE}"),
    (p.held, "another process is working on this run ({tmp}/run); wait for it, or end it"),
    (record("record.json", b"{{"), f"{{tmp}}/run/record.json is damaged (…); {RUN_AGAIN}"),
    (record("record.json", None), "{tmp}/run/record.json cannot be read: Is a directory"),
    (record("record.json", b"[]"), f"{{tmp}}/run/record.json is not a record of format 2; {RUN_AGAIN}"),
    (p.damaged_samples, f"{{tmp}}/run/samples.parquet is damaged; {RUN_AGAIN}"),
    (
        p.damaged_reply,
        "line 1 of {tmp}/run/replies.jsonl is damaged; delete the file to answer all questions again",
    ),
    (
        p.unreported,
        "{tmp}/run/record.json is not a record of format 2: it lacks benchmark, method, method_label, "
        f"method_defaults, method_version, model, weights, data, identity, config, finished; {RUN_AGAIN}",
    ),
    (
        lambda place: Store(place.tmp).samples(p.RECORD),
        "{tmp}/run/samples.parquet cannot be read (…); run it again with rerun=true",
    ),
    (
        lambda place: Store(place.tmp).arrays(p.RECORD),
        "{tmp}/run/arrays.npz cannot be read (…); run it again with rerun=true",
    ),
    (
        reported("table6"),
        "no complete run for table6 is there yet; start with python -m hired_eval -m +experiment=table6",
    ),
    (
        lambda place: report(["table6", "--runs-dir", str(place.tmp / "none")]),
        "no complete run for table6 is there yet; start with python -m hired_eval -m +experiment=table6; "
        "there is no folder {tmp}/none (--runs-dir names another)",
    ),
    (
        p.table2_without_grid,
        "gallery-1 has no picture with a grid of 2 x 2, which table2 counts; raise limit",
    ),
    (
        ranked("budget=0.1"),
        "no run has budget=0.1; write budget=SHARE with one of 0.2, or make runs at another with python -m "
        "hired_eval -m method=full,hired budget=SHARE task=docvqa,textvqa",
    ),
    (
        ranked("budget=0.2"),
        "no method was run at budget=0.2 on all of docvqa with full execution; run method=full too, or name "
        "fewer benchmarks with group=BENCHMARK,BENCHMARK",
    ),
    (
        ranked("budget=0.2", "group=readin"),
        "there is no benchmark or group 'readin'; did you mean reading? known: …",
    ),
    (ranked("budget", "0.2"), "budget 0.2: an option needs an equals sign; write budget=0.2"),
    (
        lambda place: show(["a.png", "method=hired", "--question", "What", "is", "it?"]),
        'the question has several words; put it in quotes: --question "What is it?"',
    ),
    (ranked("0.2"), "'0.2' is not an option; write budget=0.2 or group=0.2"),
    (ranked("bugdet=0.2"), "there is no option 'bugdet'; did you mean budget? known: budget, group"),
    (
        reported("baselines", "--against", "hired 0.2"),
        "--against hired 0.2: '0.2' is not an option; write NAME=VALUE",
    ),
    (
        p.curve_without_full,
        "the curve needs full execution on its benchmarks; run method=full too",
    ),
    (reported("tabel3"), "there is no report 'tabel3'; did you mean table3? known: …"),
    (
        lambda place: report([str(place.tmp / "none.yaml"), "--out", str(place.tmp)]),
        "{tmp}/none.yaml cannot be read: No such file or directory",
    ),
    (described("a: [1"), "{tmp}/mine.yaml:1 is not YAML (…); correct it"),
    (described("- a"), "{tmp}/mine.yaml is no config: it holds no keys"),
    (described("kind: accuracy"), "{tmp}/mine.yaml is no table: it has no title; see docs/extending.md"),
    (
        described("title: a\nrow: [full]"),
        "{tmp}/mine.yaml: there is no key 'row'; did you mean rows? known: title, kind, budget, partitions, "
        "models, rows, columns, others, named, published, against, notes",
    ),
    (described("title: a\nrows: [{budget: 0.2}]"), "{tmp}/mine.yaml: rows 1 has no method; add it"),
    (described("title: a\nrows: full"), "{tmp}/mine.yaml: rows must be a list, got 'full'"),
    (
        described("title: a\nrows: [{method: full, options: 3}]"),
        "{tmp}/mine.yaml: rows 1: options must be names with values, got 3",
    ),
    (
        described("title: a\nrows: [{method: hired, budget: 20}]"),
        "{tmp}/mine.yaml: rows 1: budget must be above 0 and at most 1, got 20; for 20 % write 0.2",
    ),
    (described("title: a\nrows: [ful]"), "there is no method 'ful'; did you mean full? known: …"),
    (
        described("title: a\npublished: theirs.csv"),
        "{tmp}/theirs.csv, which {tmp}/mine.yaml names, cannot be read; put a CSV there",
    ),
    (
        described("title: a\npublished: mine.csv", numbers="method\nfull\n"),
        "{tmp}/mine.csv has no column 'value', which holds the published numbers; add it",
    ),
    (
        described("title: a\nkind: efficiency\ncolumns: [tokens]"),
        "{tmp}/mine.yaml: there is no quantity 'tokens'; …known: throughput_tokens_per_second, …",
    ),
    (
        described("title: a\ncolumns: [docvqa, pop]"),
        "{tmp}/mine.yaml: there is no benchmark 'pop'; did you mean pope? known: …",
    ),
    (
        described("title: a\nkind: attention\nrows: [full]"),
        "{tmp}/mine.yaml: a table of kind attention has its own rows; leave them out",
    ),
    (
        described("title: a\nkind: tokens_per_sample"),
        "{tmp}/mine.yaml: a figure of kind tokens_per_sample shows one benchmark; name it in columns",
    ),
    (
        p.efficiency_records,
        "no efficiency records yet; make them with python -m hired_eval -m +experiment=table4, or with "
        "measure=efficiency",
    ),
    # hired-eval compare
    (
        lambda place: compare(["run", "method=full", "--runs-dir", str(place.tmp)]),
        "there is no run 'run' in {tmp}; known: none",
    ),
    (
        lambda place: compare(["method=full", "method=hired", "--runs-dir", str(place.tmp)]),
        "no finished run of 'method=full' in {tmp}; make it with python -m hired_eval method=full, or name "
        "another folder with --runs-dir",
    ),
    # hired-eval show
    (shown("{tmp}/none.png"), "{tmp}/none.png cannot be opened: No such file or directory"),
    (shown(__file__), f"{__file__} is not a picture that Pillow can read"),
    (p.bomb, "{tmp}/a.png is too large: …"),
    (p.shown_truncated, "{tmp}/cut.png: the image cannot be decoded: …truncated…"),
    (shown("{tmp}/a.png", "alpha"), "'alpha' is not an option; write NAME=VALUE"),
    (shown("{tmp}/a.png", "model=minni"), "there is no model 'minni'; did you mean mini…? known: …"),
]
