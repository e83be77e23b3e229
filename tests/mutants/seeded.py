"""The faults that are seeded: one place of the code, as it is and as a mistake would have it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """A mistake.

    Attributes:
        name: what is wrong, in words.
        file: path from the repository's root.
        right: text that occurs once in the file.
        wrong: what stands there instead.
        tests: the tests that should see it.
    """

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...] = ("tests/dropping", "tests/models")

    def seed(self, root: Path) -> None:
        """Put the mistake into a copy of the repository.

        Raises:
            ValueError: the text does not occur exactly once, so that the mutant needs another look.
        """
        path = root / self.file
        text = path.read_text()
        if text.count(self.right) != 1:
            raise ValueError(f"{self.file} has {text.count(self.right)} times {self.right!r}")
        path.write_text(text.replace(self.right, self.wrong))


FLOOR = "return floor(Fraction(repr(float(share))) * count)"
MUTANTS = [
    Mutant(
        "a budget's floor is one too low",
        "hired_eval/dropping/base.py", FLOOR, f"{FLOOR.replace('return ', 'return max(0, ')} - 1)",
    ),
    Mutant(
        "a budget is rounded up",
        "hired_eval/dropping/base.py", FLOOR, "return -floor(-Fraction(repr(float(share))) * count)",
    ),
    Mutant(
        "rows and columns of the sub-images' regions are swapped",
        "hired_eval/dropping/layout.py", '"ry,cx->rcyx"', '"ry,cx->crxy"',
    ),
    Mutant(
        "tokens are packed as if the grid's columns were its rows",
        "hired_eval/dropping/layouts.py", "max(layout.cols, 1)", "max(layout.rows, 1)",
    ),
    Mutant(
        "the visual content score is read from the final layer",
        "hired_eval/dropping/hired.py",
        "attention(encoding, self.initial_layer)", "attention(encoding, self.final_layer)",
    ),
    Mutant(
        "features come from the layer before the feature layer",
        "hired_eval/models/signals.py",
        "[layers[feature_layer].register_forward_hook", "[layers[feature_layer - 1].register_forward_hook",
    ),
    Mutant(
        "the visual content score is a mean over the region, not a sum",
        "hired_eval/dropping/hired.py",
        "mass[layouts.full_image]).sum(dim=1)",
        "mass[layouts.full_image]).sum(dim=1) / layouts.regions.sum(dim=1).clamp(min=1e-9)",
    ),
    Mutant(
        "CLS-attention is shifted by one token",
        "hired_eval/models/signals.py", "logits.softmax(dim=-1)[..., 1:]", "logits.softmax(dim=-1)[..., :-1]",
    ),
    Mutant(
        "PruMerge takes the mean of the neighbours, not the sum",
        "hired_eval/dropping/prumerge.py", 'mode="sum"', 'mode="mean"',
    ),
    Mutant(
        "the last kept token of each partition is dropped",
        "hired_eval/dropping/selection.py",
        "column < counts[:, None], ranked", "column < counts[:, None] - 1, ranked",
    ),
    Mutant(
        "batches are padded on the right",
        "hired_eval/models/prefix.py",
        "[pad] * (length - len(row)) + row for", "row + [pad] * (length - len(row)) for",
    ),
    Mutant(
        "padding on the left is not masked",
        "hired_eval/models/prefix.py", "[0] * (length - len(row)) + [1]", "[1] * (length - len(row)) + [1]",
    ),
    Mutant(
        "positions after an image do not close up over dropped tokens",
        "hired_eval/models/shortening.py",
        "self.dropped.to(left.device)", "0 * self.dropped.to(left.device)",
        tests=("tests/models/test_apply_cache.py",),
    ),
    Mutant(
        "a KV cache is taken for as long as the tokens in it",
        "hired_eval/models/shortened_inputs.py",
        "return seen + cache.shortening.length - cache.shortening.short", "return seen",
        tests=("tests/models/test_apply_cache.py",),
    ),
    Mutant(
        "the first block that is left undoes all",
        "hired_eval/models/patching.py",
        "contexts.stack.remove(context)", "contexts.stack.clear()",
        tests=("tests/models/test_apply_undo.py",),
    ),
    Mutant(
        "a call's own feature layer is passed over",
        "hired_eval/models/shortened_inputs.py", "family_of(model, arguments)", "family_of(model)",
        tests=("tests/models/test_apply_forward.py",),
    ),
    Mutant(
        "a config's folder is not looked for",
        "hired_eval/lmms/local_data.py", "for root in roots if (root / config).is_dir()}", "for root in ()}",
        tests=("tests/test_local_data.py",),
    ),
    Mutant(
        "a part of a split that is missing is not noticed",
        "hired_eval/lmms/parquet_files.py",
        "range(first.count) if first.count is not None", "[] if first.count",
        tests=("tests/test_local_data.py",),
    ),
    Mutant(
        "columns that only scoring reads are not asked for",
        "hired_eval/lmms/columns.py", "mentioned.add(column)", "pass",
        tests=("tests/test_columns.py",),
    ),
    Mutant(
        "None as a layer is the first one recorded",
        "hired_eval/dropping/types.py",
        "layer = max(recorded) if self.feature_layer is None else self.feature_layer",
        "layer = min(recorded)",
        tests=("tests/models/test_together.py",),
    ),
    Mutant(
        "the record's method is that of the config, not the one that ran",
        "hired_eval/runs/plan.py", "method=effective_method(dropper),",
        "method=replace(effective_method(dropper), options=config.method.options),",
        tests=("tests/test_identity.py",),
    ),
    Mutant(
        "a limit beyond the documents makes another run",
        "hired_eval/runs/plan.py",
        "return limit if limit < len(task.eval_docs_no_media) else None, counted", "return limit, counted",
        tests=("tests/test_identity.py",),
    ),
    Mutant(
        "a docstring makes another run",
        "hired_eval/code.py",
        "if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):", "if False:",
        tests=("tests/test_code.py",),
    ),
    Mutant(
        "modules beside a method of somebody else's are not part of its runs",
        "hired_eval/code.py", "todo += _imported(name, file)", "todo += []",
        tests=("tests/test_code.py",),
    ),
    Mutant(
        "methods that are answered together write into each other's encodings",
        "hired_eval/models/family.py",
        "if len(stages) > 1 else values.contiguous()", "if False else values.contiguous()",
        tests=("tests/models/test_together.py",),
    ),
    Mutant(
        "runs of another numeric type meet in a table",
        "hired_eval/records/context.py",
        'NOT_OF_A_MODEL = {"name",', 'NOT_OF_A_MODEL = {"dtype", "name",',
        tests=("tests/reporting/test_comparable.py",),
    ),
    Mutant(
        "a method's option is no part of its row",
        "hired_eval/reporting/rows.py",
        'if name not in ("budget", SEED)', 'if name not in ("budget", SEED, "spend_leftover")',
        tests=("tests/reporting/test_comparable.py",),
    ),
    Mutant(
        "pairs are drawn over all categories",
        "hired_eval/records/statistics.py",
        "_drawn(np.hstack([sums, counts]), counts > 0, rng)",
        "_drawn(np.hstack([sums, counts]), counts >= 0, rng)",
        tests=("tests/reporting/test_statistics.py",),
    ),
    Mutant(
        "a mean of category means is one over documents",
        "hired_eval/records/scores.py",
        "return Units(values, clusters, strata, bounds)",
        "return Units(values, clusters, np.zeros(len(values), dtype=int), bounds)",
        tests=("tests/test_scores.py",),
    ),
    Mutant(
        "an interval counts questions where it should count pictures",
        "hired_eval/records/statistics.py", "if len(sums) < FEWEST:", "if counts.sum() < FEWEST:",
        tests=("tests/reporting/test_statistics.py",),
    ),
    Mutant(
        "photos of a turned camera stand on their head",
        "hired_eval/models/images.py",
        "    6: Image.Transpose.ROTATE_270", "    6: Image.Transpose.ROTATE_90",
        tests=("tests/models/test_images.py",),
    ),
    Mutant(
        "transparent pictures are laid on black",
        "hired_eval/models/images.py", 'image.size, "white")', 'image.size, "black")',
        tests=("tests/models/test_images.py",),
    ),
    Mutant(
        "a picture is turned again when it is converted again",
        "hired_eval/models/images.py", "    rgb.info = {}\n", "",
        tests=("tests/models/test_images.py",),
    ),
    Mutant(
        "the first block to end lets truncated pictures in, though others still run",
        "hired_eval/models/images.py",
        "            if self._blocks == 0:\n                ImageFile",
        "            if True:\n                ImageFile",
        tests=("tests/models/test_images.py",),
    ),
    Mutant(
        "prefixes are shared under a sliding window",
        "hired_eval/models/generation.py",
        "_layers(config) <= {DynamicLayer} and",
        "_layers(config) <= {DynamicLayer, DynamicSlidingWindowLayer} and",
        tests=("tests/models/test_generation.py",),
    ),
    Mutant(
        "rotary frequencies that follow the longest row count as fixed",
        "hired_eval/models/generation.py", ' or kind == "longrope"', "",
        tests=("tests/models/test_generation.py",),
    ),
    Mutant(
        "the checkpoint's own generation options are not looked at",
        "hired_eval/models/generation.py", "{**config.to_diff_dict(), **settings}", "dict(settings)",
        tests=("tests/models/test_generation.py",),
    ),
    Mutant(
        "any text is true",
        "hired_eval/typed.py", "fits = isinstance(value, kind)\n", "fits = isinstance(value, str | kind)\n",
        tests=("tests/test_options.py",),
    ),
    Mutant(
        "special tokens that have no name of their own reach the model from a question",
        "hired_eval/models/prompt.py",
        "return {*tokenizer.all_special_tokens, *added, image_token}",
        "return {*tokenizer.all_special_tokens, image_token}",
        tests=("tests/models/test_prompt.py",),
    ),
    Mutant(
        "a backslash and an n in a prompt stay two signs",
        "hired_eval/models/configs.py", r'''.replace("\\n", "\n")''', "",
        tests=("tests/test_options.py",),
    ),
    Mutant(
        "the home folder is replaced in the middle of a name",
        "hired_eval/paths.py", r'''(?![\w-]|\.\w)", "~"''', r'''", "~"''',
        tests=("tests/test_options.py",),
    ),
    Mutant(
        "copies of a sampled request are one draw",
        "hired_eval/lmms/requests.py", "times[id(request)] += 1", "times[id(request)] += 0",
        ("tests/test_lmms.py",),
    ),
    Mutant(
        "a draw forgets which request it is for",
        "hired_eval/lmms/answerer.py", "repr((seed, *key))", "repr((seed, key[3]))", ("tests/test_lmms.py",),
    ),
    Mutant(
        "any aggregate of lmms-eval counts as the score of the samples",
        "hired_eval/records/scores.py", "rel_tol=1e-6", "rel_tol=1e6", ("tests/test_scorers.py",),
    ),
    Mutant(
        "a scorer's totals stay from one run to the next",
        "hired_eval/lmms/guards.py", "value.update(was)", "value.update(value)", ("tests/test_scorers.py",),
    ),
    Mutant(
        "a limit does not make another run",
        "hired_eval/runs/identity.py", '"limit": limit,', '"limit": None,', ("tests/test_identity.py",),
    ),
    Mutant(
        "another version of the documents is the same run",
        "hired_eval/runs/identity.py",
        '"documents": None if timed else identity.documents', '"documents": None',
        tests=("tests/test_identity.py",),
    ),
    Mutant(
        "another version of a method is the same run",
        "hired_eval/runs/identity.py", "sum(type(stage).VERSION for stage in stages)", "1",
        ("tests/test_identity.py",),
    ),
    Mutant(
        "a run that is asked for again is not repeated",
        "hired_eval/runs/measuring.py", "processes.main and plan.config.rerun", "not processes",
        ("tests/test_runs.py",),
    ),
    Mutant(
        "the paired test looks at one side",
        "hired_eval/records/statistics.py", "np.abs(signs @ kinds[:, 0])", "(signs @ kinds[:, 0])",
        tests=("tests/reporting/test_statistics.py",),
    ),
    Mutant(
        "a pair of questions counts double if one of them is right",
        "hired_eval/records/scores.py", '(scored["min"] == 1)', '(scored["min"] >= 0)',
        tests=("tests/reporting/test_statistics.py",),
    ),
    Mutant(
        "a part of a benchmark of points is scored as the whole",
        "hired_eval/records/store.py", "scorer.of_part() if record.partial else scorer", "scorer",
        tests=("tests/reporting/test_tables.py",),
    ),
    Mutant(
        "runs of another budget are in a row",
        "hired_eval/reporting/rows.py", " or budget_of(record) != self.budget", "",
        tests=("tests/reporting/test_tables.py",),
    ),
    Mutant(
        "a limit cuts a pair of questions",
        "hired_eval/lmms/tasks.py", "        limit = end", "        break", ("tests/test_benchmarks.py",),
    ),
    Mutant(
        "grids are shrunk later than the stock model shrinks them",
        "hired_eval/models/families/llava_onevision.py", "SHRINKS_ABOVE = 1.1", "SHRINKS_ABOVE = 1.6",
        tests=("tests/models/test_onevision.py",),
    ),
    Mutant(
        "a picture among several has no newline token",
        "hired_eval/dropping/packing.py", "(newline_behind & last)", "(newline_behind & (place < 0))",
        tests=("tests/models/test_onevision.py",),
    ),
    Mutant(
        "what stays inside the language model is chosen with a look at the answer",
        "hired_eval/models/answering.py", "- torch.tensor([p.scored", "- 0 * torch.tensor([p.scored",
        tests=("tests/models/test_layer_stages.py",),
    ),
    Mutant(
        "layers behind a stage see positions that were counted anew",
        "hired_eval/models/inside.py",
        "take(t, segment.columns) for t in", "t[:, : segment.columns.shape[1]] for t in",
        tests=("tests/models/test_inside.py",),
    ),
]  # fmt: skip
