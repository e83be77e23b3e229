"""The model configs: which prompt, dtype and checkpoint belong to a name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hired_eval.errors import UserError
from hired_eval.paths import config_folder

IMAGES, QUESTION = "{images}", "{question}"


@dataclass(frozen=True)
class Prompt:
    """A prompt template, and where it is from, in words."""

    template: str
    origin: str


@cache
def model_configs() -> dict[str, dict[str, str]]:
    """The model configs that come with the package, by name."""
    files = sorted((config_folder() / "model").glob("*.yaml"))
    return {file.stem: yaml.safe_load(file.read_text()) for file in files}


def typed_text(name: str, text: str) -> str:
    r"""What a user types into a prompt: a backslash with n or t is a line break or a tab.

    Shells, Hydra and lmms-eval all hand the two characters on as they are.

    Args:
        name: of the option, for the message.
        text: as it arrives.

    Raises:
        UserError: another backslash, which would reach the model as one.
    """
    meant = text.replace("\\n", "\n").replace("\\t", "\t")
    if "\\" in meant:
        raise UserError(
            f"{name} holds a backslash that is neither \\n (a line break) nor \\t (a tab), got {text!r}; "
            "leave it out"
        )
    return meant


def prompt_named(prompt: str) -> str:
    """A prompt template: the prompt of the model config of that name, or the text itself, as `typed_text`.

    Raises:
        UserError: neither a name nor a template.
    """
    if prompt in model_configs():
        return model_configs()[prompt]["prompt"]
    if prompt.count(IMAGES) == 1 and prompt.count(QUESTION) == 1:
        return typed_text("the prompt", prompt)
    raise UserError(
        f"prompt {prompt!r} is neither a template with {IMAGES} and {QUESTION} once each nor the name of a "
        f"model config ({', '.join(model_configs())})"
    )


def default_dtype(pretrained: str, revision: str | None = None) -> str:
    """The dtype of the model config with this name or hub id, else its config.json's, else bfloat16."""
    from transformers import PreTrainedConfig  # seconds, which a config's check does not need

    from hired_eval.hub import explain_unreachable

    config = config_of(pretrained)
    if config is not None:
        return config["dtype"]
    try:
        own, _ = PreTrainedConfig.get_config_dict(
            pretrained,
            revision=revision,
            local_files_only=_is_local(pretrained) or bool(explain_unreachable()),
        )
    except (OSError, ValueError):  # loading the checkpoint says what is wrong with it
        return "bfloat16"
    nested = own.get("text_config") or {}
    said = [part.get(key) for part in (own, nested) for key in ("dtype", "torch_dtype")]
    return str(next(filter(None, said), "bfloat16"))


def default_prompt(pretrained: str, revision: str | None = None) -> Prompt:
    """The prompt of the model config with this name or hub id, else what the processor's chat template makes.

    Raises:
        UserError: no config fits, and the checkpoint has no chat template or cannot be loaded.
    """
    config = config_of(pretrained)
    if config is None:
        return Prompt(_template_of_chat(pretrained, revision), f"the chat template of {pretrained}")
    return Prompt(config["prompt"], f"the model config {config['name']}")


def _is_local(pretrained: str) -> bool:
    return Path(pretrained).is_dir()


def config_of(pretrained: str) -> dict[str, str] | None:
    """The model config with exactly this name or hub id; a folder's name says nothing about what is in it."""
    if _is_local(pretrained):
        return None
    return next(
        (c for name, c in model_configs().items() if pretrained in (name, c.get("hub_id"))),
        None,
    )


def _template_of_chat(pretrained: str, revision: str | None) -> str:
    """The prompt that the processor's own chat template makes of one image and one question."""
    from transformers import AutoProcessor

    from hired_eval.models.checkpoint import call_loader, read_config

    read_config(pretrained, revision)  # says so where the checkpoint is of no family, or its code would run
    processor: Any = call_loader(pretrained, AutoProcessor.from_pretrained, pretrained, revision=revision)
    if not getattr(processor, "chat_template", None):
        raise UserError(
            f"no model config has the hub id {pretrained}, and it has no chat template of its own; name the "
            "prompt, e.g. prompt=llava_next_7b for Vicuna v1"
        )
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return text.replace(processor.image_token, IMAGES, 1)
