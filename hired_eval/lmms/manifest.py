"""What lmms-eval finds through the entry-point group `lmms_eval.models`."""

from lmms_eval.models.registry_v2 import ModelManifest

hired_llava = ModelManifest(
    model_id="hired_vlm",
    simple_class_path="hired_eval.lmms.model.HiredLlava",
    aliases=("hired_llava",),
)
"""One model for checkpoints of all families, under two names."""
