"""Memory that runs out, and how much of it a KV cache takes."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig

CPU_MEMORY = 8 * 2**30
CPU_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of PyTorch means that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(m in str(error) for m in CPU_MESSAGES)


def head_dimension(text: PretrainedConfig) -> int:
    """Numbers in an attention head of a language model: as its config says, else its width over its heads."""
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def count_kv_bytes(config: PretrainedConfig, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of the KV cache of one sequence: 2 * layers * KV heads * head dimension * tokens * bytes.

    Args:
        config: of a LLaVA model.
        tokens: length of the sequence, visual tokens included.
        dtype: of the cache.
    """
    text = config.text_config
    head = head_dimension(text)
    # configs of models without grouped heads name no number of their own
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * head * tokens * dtype.itemsize)


def count_row_bytes(config: PretrainedConfig, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of one sequence in a batch: its KV cache, and what a layer of the language model holds of it.

    In prefill, that is about eight tensors of the model's width and three of its MLP's.

    Args:
        config: of a LLaVA model.
        tokens: length of the sequence, new tokens included.
        dtype: of the language model.
    """
    text = config.get_text_config(decoder=True)
    width = 8 * text.hidden_size + 3 * text.intermediate_size
    return count_kv_bytes(config, tokens, dtype) + int(width * tokens * dtype.itemsize)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a GPU now, what PyTorch holds in reserve included; 8 GiB on other devices."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return CPU_MEMORY


def batch_bytes(free: int) -> int:
    """Memory that the rows of a batch may take of what is free: four fifths."""
    return 4 * free // 5


def spare_bytes(device: torch.device) -> int:
    """Memory that caches may take: a quarter of what is free."""
    return free_bytes(device) // 4
