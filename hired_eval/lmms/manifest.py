"""What lmms-eval finds through the entry-point group `lmms_eval.models`."""

from lmms_eval.models.registry_v2 import ModelManifest

SIMPLE = "hired_eval.lmms.model.HiredVLM"

hired_llava = (
    ModelManifest("hired_vlm", SIMPLE, "hired_eval.lmms.model.HiredVLMChat"),
    ModelManifest("hired_llava", SIMPLE),
)
"""One model for all families, in lmms-eval's two forms; by its older name in the simple form alone."""
