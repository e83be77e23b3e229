"""How like the question each patch is, by the CLIP whose vision tower encodes the picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPModel, CLIPVisionModel

from hired_eval.dropping import VisionEncoding
from hired_eval.errors import UserError
from hired_eval.models.checkpoint import call_loader
from hired_eval.models.family import Family

REMEDY = "point to a local copy with method.text_tower=FOLDER, or leave it out with method.text_tower=null"


class QuestionTower:
    """The parts of a CLIP that a LLaVA checkpoint lacks: its text tower, and what takes patches to its space.

    Only safetensors are read.

    Args:
        source: a folder, or an id on the hub.
        family: of the model, whose vision tower must be that CLIP's.

    Raises:
        UserError: nothing there, no CLIP, damaged weights or no safetensors, or another vision tower.
    """

    def __init__(self, source: str, family: Family) -> None:
        tower = family.tower
        if not isinstance(tower, CLIPVisionModel):
            raise UserError(
                f"text_tower={source} compares patches of a CLIP, and the vision tower is "
                f"{type(tower).__name__}; set text_tower=null"
            )
        self.tokenizer: Any = call_loader(source, AutoTokenizer.from_pretrained, source, remedy=REMEDY)
        clip, loading = call_loader(
            source,
            CLIPModel.from_pretrained,
            source,
            dtype=tower.dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            remedy=REMEDY,
        )
        unfit = sorted({*loading["missing_keys"], *(key[0] for key in loading["mismatched_keys"])})
        if unfit:
            raise UserError(f"text_tower={source} is not a whole CLIP: it lacks {unfit[0]}")
        width, own = clip.config.vision_config.hidden_size, tower.config.hidden_size
        if width != own:
            raise UserError(
                f"text_tower={source} is not the CLIP that the vision tower is from: its patches have "
                f"{width} channels, and those of the model {own}"
            )
        clip = clip.eval().to(tower.device)
        self.text: Any = clip.text_model
        self.text_projection, self.patch_projection = clip.text_projection, clip.visual_projection
        self.patch_norm = clip.vision_model.post_layernorm

    def read(self, question: str) -> Tensor:
        """(M, E) unit vectors of the question's M segments, as long as the text tower can read at once."""
        ids = self.tokenizer(question, add_special_tokens=False).input_ids
        longest = self.text.config.max_position_embeddings - 2
        first, last = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        device = self.text_projection.weight.device
        embeddings = []
        for start in range(0, max(len(ids), 1), longest):
            segment = torch.tensor([[first, *ids[start : start + longest], last]], device=device)
            embeddings.append(self.text_projection(self.text(input_ids=segment).pooler_output))
        return normalize(torch.cat(embeddings).float(), dim=-1)

    def compare(self, encoding: VisionEncoding, question: str) -> VisionEncoding:
        """The encoding of one picture, with how like a question its patches are: the mean over segments."""
        features = encoding.features.to(self.patch_norm.weight)
        patches = normalize(self.patch_projection(self.patch_norm(features)).float(), dim=-1)
        similarity = (patches @ self.read(question).T).mean(dim=-1)
        return replace(encoding, recorded_relevance=similarity.to(encoding.features.device))
