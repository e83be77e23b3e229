"""The model configs: which prompt, dtype and checkpoint belong to a name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from transformers import AutoProcessor

from hired_eval.errors import UserError
from hired_eval.llava.prompt import IMAGES, QUESTION
from hired_eval.paths import config_folder


@dataclass(frozen=True)
class ModelDefaults:
    """What a checkpoint needs beside its weights.

    Attributes:
        prompt: template with {images} and {question}.
        dtype: float32, float16 or bfloat16.
    """

    prompt: str
    dtype: str


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


def defaults_for(pretrained: str) -> ModelDefaults:
    """Prompt and dtype for a checkpoint.

    Those of the model config with this hub id, else with the same folder name; for any other checkpoint the
    chat template of its processor, and bfloat16.

    Raises:
        UserError: no config fits, and the checkpoint has no chat template.
    """
    for config in model_configs().values():
        hub_id = config.get("hub_id") or ""
        if hub_id and (hub_id == pretrained or hub_id.split("/")[-1] == Path(pretrained).name):
            return ModelDefaults(config["prompt"], config["dtype"])
    return ModelDefaults(_template_of_chat(pretrained), "bfloat16")


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
