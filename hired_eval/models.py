"""The model configs: which prompt, dtype and checkpoint belong to a name."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import yaml
from transformers import AutoProcessor

from hired_eval.errors import UserError
from hired_eval.llava.prompt import IMAGES, QUESTION
from hired_eval.paths import config_folder


@cache
def model_configs() -> dict[str, dict[str, str]]:
    """The model configs that come with the package, by name."""
    files = sorted((config_folder() / "model").glob("*.yaml"))
    return {file.stem: yaml.safe_load(file.read_text()) for file in files}


def prompt_named(prompt: str) -> str:
    """A prompt template: the prompt of the model config of that name, or the text itself.

    Raises:
        UserError: neither a name nor a template.
    """
    if prompt in model_configs():
        return model_configs()[prompt]["prompt"]
    if IMAGES in prompt and QUESTION in prompt:
        return prompt
    raise UserError(
        f"prompt {prompt!r} is neither a template with {IMAGES} and {QUESTION} nor the name of a model "
        f"config ({', '.join(model_configs())})"
    )


def default_dtype(pretrained: str) -> str:
    """The dtype of the model config of a checkpoint, else that of its own config.json, else bfloat16."""
    config = _config_of(pretrained)
    if config is not None:
        return config["dtype"]
    try:
        own = json.loads((Path(pretrained) / "config.json").read_text())
        return str(own.get("dtype") or own.get("torch_dtype") or "bfloat16")
    except (OSError, ValueError):  # loading the checkpoint says what is wrong with it
        return "bfloat16"


def default_prompt(pretrained: str) -> str:
    """The prompt of the model config of a checkpoint, else what its processor's chat template makes.

    Raises:
        UserError: no config fits, and the checkpoint has no chat template.
    """
    config = _config_of(pretrained)
    return _template_of_chat(pretrained) if config is None else config["prompt"]


def _config_of(pretrained: str) -> dict[str, str] | None:
    """The model config with this hub id, or with a hub id of the same folder name."""
    for config in model_configs().values():
        hub_id = config.get("hub_id") or ""
        if hub_id and (hub_id == pretrained or hub_id.split("/")[-1] == Path(pretrained).name):
            return config
    return None


def _template_of_chat(pretrained: str) -> str:
    """The prompt that the processor's own chat template makes of one image and one question."""
    no_prompt = UserError(
        f"no model config has the hub id {pretrained}, and it has no chat template of its own; "
        "name the prompt, e.g. prompt=llava_next_7b for Vicuna v1"
    )
    try:
        processor = AutoProcessor.from_pretrained(pretrained)
    except (OSError, ValueError) as error:
        raise no_prompt from error
    if not getattr(processor, "chat_template", None):
        raise no_prompt
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    bos = processor.tokenizer.bos_token
    return text.removeprefix(bos or "").replace(processor.image_token, IMAGES, 1)
