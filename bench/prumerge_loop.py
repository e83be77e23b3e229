"""PruMerge with a Python loop over kept tokens, as the published code has it: only to compare speed."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from hired_eval.dropping import KeptTokens, PartitionLayout, VisionEncoding
from hired_eval.dropping.prumerge import NEIGHBOURS, PruMerge, unsplit_attention
from hired_eval.dropping.types import pad_partitions


def drop_in_loops(method: PruMerge, encoding: VisionEncoding, layout: PartitionLayout) -> KeptTokens:
    """What `method.drop` gives, one kept token at a time.

    Args:
        method: PruMerge or PruMerge+.
        encoding: with keys.
        layout: geometry of the image.
    """
    attention = unsplit_attention(encoding)
    all_keys = encoding.keys
    every, counts = method.centres(attention)
    indices, features = [], []
    for partition in range(layout.partitions):
        weights = attention[partition]
        tokens = encoding.features[partition].float()
        keys = normalize(all_keys[partition, 1:].float(), dim=-1)
        centres = every[partition, : counts[partition]].tolist()
        merged = []
        for centre in centres:
            others = torch.tensor([i for i in range(len(tokens)) if i != centre])
            similarity = torch.mv(keys[others], keys[centre])
            near = others[similarity.topk(min(NEIGHBOURS, len(others))).indices]
            merged.append(tokens[centre] + (weights[near, None] * tokens[near]).sum(dim=0))
        if len(centres) < len(tokens):
            left = torch.tensor([i for i in range(len(tokens)) if i not in set(centres)])
            merged.append((weights[left, None] * tokens[left]).sum(dim=0))
            centres.append(-1)
        indices.append(torch.tensor(centres))
        features.append(torch.stack(merged).to(encoding.features.dtype))
    return pad_partitions(indices, features)
