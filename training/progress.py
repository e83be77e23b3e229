"""A training stage's progress: printed with the time left, saved every two minutes, resumed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training import parallel


class Progress:
    """Counts the steps of one stage, prints, saves and resumes weights and optimizer state (safetensors)."""

    def __init__(self, folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        self.folder, self.module, self.optimizer, self.steps = folder, module, optimizer, steps
        self.step, self.seconds = 0, 0.0
        self._sums: dict[str, list[float]] = {}
        self._printed = self._saved = self._last = time.monotonic()
        self._since = 0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.json").exists():
            self._load()

    def advance(self, values: dict[str, float], every: float = 20.0, save_every: float = 120.0) -> None:
        """One more step is done; print every ``every`` seconds, save every ``save_every``."""
        self.step += 1
        self._since += 1
        now = time.monotonic()
        self.seconds += now - self._last
        self._last = now
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)
        if parallel.rank() == 0 and (now - self._printed > every or self.step == self.steps):
            left = (self.steps - self.step) * (now - self._printed) / max(1, self._since)
            means = "  ".join(f"{k} {sum(v) / len(v):.3f}" for k, v in self._sums.items())
            print(
                f"{self.folder.name} {self.step}/{self.steps}  {means}  {left / 60:.1f} min left", flush=True
            )
            self._sums, self._printed, self._since = {}, now, 0
        if now - self._saved > save_every:
            self.save()
            self._saved = now

    def save(self) -> None:
        """Write weights, optimizer moments and the step; the old checkpoint is replaced last.

        The first of several processes writes: all have the same.
        """
        if parallel.rank():
            return
        tensors: dict[str, Tensor] = {
            f"w.{k}": v.detach().contiguous() for k, v in self.module.state_dict().items()
        }
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"o.{index}.{k}": torch.as_tensor(v).clone() for k, v in state.items()}
        part = self.folder / "state.part"
        save_file(_unshared(tensors), part)
        part.replace(self.folder / "state.safetensors")
        (self.folder / "state.json").write_text(json.dumps({"step": self.step, "seconds": self.seconds}))

    def _load(self) -> None:
        tensors = load_file(self.folder / "state.safetensors")
        self.module.load_state_dict({k[2:]: v for k, v in tensors.items() if k.startswith("w.")})
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("o."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = value
        full = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state, "param_groups": full["param_groups"]})
        record = json.loads((self.folder / "state.json").read_text())
        self.step, self.seconds = record["step"], record["seconds"]
        print(f"{self.folder.name}: going on from step {self.step}", flush=True)


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies where two names share one storage (tied embeddings), which safetensors refuses."""
    seen: set[int] = set()
    out = {}
    for name, tensor in tensors.items():
        out[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return out
